"""Ages that people round to: how much counts by year heap at multiples of 5 and 10, and which ages stand out."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

FIRST_AGE, LAST_AGE = 23, 62
"""The classical range of Whipple's index: every final digit occurs equally often, and few people are older."""

STANDING_OUT = 2.0
"""Times the median of its neighbours from which an age stands out ..."""

MIN_EXCESS_DEVIATIONS = 4.0
"""... by at least this many standard deviations of a Poisson count, so that small sets show nothing by chance."""

NEIGHBOURS = 2

_FEW = 4
"""Counts below it are taken for it when their deviation is asked: among the oldest ages chance alone makes heaps."""


@dataclass(frozen=True)
class Heaping:
    """How ages heap.

    Attributes:
        index_5: 100: ages ending in 0 or 5 are as frequent as others; 500: there are no others. None without ages 23-62.
        index_10: the same for ages ending in 0; 100 to 1000.
        standing_out: age -> its count over the median of its four neighbours, for ages that clearly exceed them.
    """

    index_5: float | None
    index_10: float | None
    standing_out: dict[int, float]


def age_heaping(by_age: Mapping[int, int]) -> Heaping:
    """Measure heaping.

    Args:
        by_age: whole years -> images.
    """
    total = sum(count for age, count in by_age.items() if FIRST_AGE <= age <= LAST_AGE)
    indices = [100 * step * _multiples(by_age, step) / total if total else None for step in (5, 10)]
    return Heaping(indices[0], indices[1], _standing_out(by_age))


def _multiples(by_age: Mapping[int, int], step: int) -> int:
    return sum(by_age.get(age, 0) for age in range(FIRST_AGE, LAST_AGE + 1) if age % step == 0)


def _standing_out(by_age: Mapping[int, int]) -> dict[int, float]:
    found = {}
    oldest = max(by_age, default=0)
    for age, count in sorted(by_age.items()):
        near = [n for n in range(max(age - NEIGHBOURS, 1), min(age + NEIGHBOURS, oldest) + 1) if n != age]
        usual = statistics.median([by_age.get(n, 0) for n in near]) if near else 0
        if count >= STANDING_OUT * usual and count - usual > MIN_EXCESS_DEVIATIONS * max(usual, _FEW) ** 0.5 and usual:
            found[age] = count / usual
    return found
