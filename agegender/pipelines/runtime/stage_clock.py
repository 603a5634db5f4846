"""Time of a worker by stage. No Ray."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class StageClock:
    """Accumulates seconds by stage until they are taken; one measurement costs about a microsecond."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere to a stage."""
        self._seconds[name] += seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage; stages must not be nested."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - began_s

    @contextmanager
    def rest(self, name: str) -> Iterator[None]:
        """Add the time of the block that no stage within it took, so that all stages sum to the time of the block."""
        began_s, before_s = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
        finally:
            within_s = sum(self._seconds.values()) - before_s
            self._seconds[name] += time.perf_counter() - began_s - within_s

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and add the time to get them to a stage."""
        iterator = iter(items)
        while True:
            try:
                with self.stage(name):
                    item = next(iterator)
            except StopIteration:
                return
            yield item

    def take(self) -> dict[str, float]:
        """Return the seconds by stage since the last call, and reset them."""
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken
