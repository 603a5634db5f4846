"""Where a worker's time goes, stage by stage. No Ray."""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class StageClock:
    """Seconds by stage, summed up until they are taken; a reading costs about a microsecond."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, name: str, seconds: float) -> None:
        """Count time that was measured elsewhere towards a stage."""
        self._seconds[name] += seconds

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block towards a stage; stages must not lie within one another."""
        began_s = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - began_s

    @contextmanager
    def rest(self, name: str) -> Iterator[None]:
        """Count the time of the block that no stage within it took, so that the sum of all is the time of the block."""
        began_s, before_s = time.perf_counter(), sum(self._seconds.values())
        try:
            yield
        finally:
            within_s = sum(self._seconds.values()) - before_s
            self._seconds[name] += time.perf_counter() - began_s - within_s

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Hand items on, and count the time that it takes to get them towards a stage."""
        iterator = iter(items)
        while True:
            try:
                with self.stage(name):
                    item = next(iterator)
            except StopIteration:
                return
            yield item

    def take(self) -> dict[str, float]:
        """Seconds by stage since this was last called."""
        taken = dict(self._seconds)
        self._seconds.clear()
        return taken
