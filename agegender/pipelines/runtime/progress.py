"""Progress of long work: a live bar on a terminal, a log line every ten seconds elsewhere."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0


class Progress:
    """Counts finished work and shows the rate and the remaining time.

    Args:
        total: amount of work; None if not yet known.
        unit: of the count, in the plural, e.g. ``images``.
        label: of the work, e.g. ``predict``.
    """

    def __init__(self, total: int | None, unit: str, label: str) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.done = self._before = 0
        self._started_s = self._logged_s = time.monotonic()
        self._values: dict[str, object] = {}
        interactive = sys.stderr.isatty()
        self._bar = tqdm(total=total, unit=f" {unit}", desc=label, dynamic_ncols=True) if interactive else None

    def start_at(self, done: int) -> None:
        """Set the work that an earlier run finished: shown as done, excluded from the rate."""
        self.done = self._before = done
        if self._bar is not None:
            self._bar.initial = self._bar.n = done
            self._bar.refresh()

    def expect(self, total: int) -> None:
        """Set the total, once it is known."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total

    def update(self, count: int, **values: object) -> None:
        """Add finished work; ``values`` are shown after the count until replaced."""
        self.done += count
        self._values.update(values)
        if self._bar is not None:
            self._bar.set_postfix({k: str(v) for k, v in self._values.items()}, refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._logged_s >= LOG_INTERVAL_S:
            self._log()

    def _log(self) -> None:
        self._logged_s = time.monotonic()
        elapsed_s = max(self._logged_s - self._started_s, 1e-9)
        rate = (self.done - self._before) / elapsed_s
        parts = [
            f"{self.done:,}" + (f" of {self.total:,}" if self.total else "") + f" {self.unit}",
            f"{rate:,.0f} {self.unit}/s",
        ]
        if self.total and rate > 0:
            parts.append(f"{(self.total - self.done) / rate:,.0f} s left")
        parts += [f"{name} {value}" for name, value in self._values.items()]
        logger.info("%s: %s", self.label, ", ".join(parts))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self.done:
            self._log()
