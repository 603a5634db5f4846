"""Age heaping: how strongly counts per year cluster at multiples of 5 and 10, and which ages are outliers."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

FIRST_AGE, LAST_AGE = 23, 62
"""The range of Whipple's index, in which each final digit occurs equally often."""

OUTLIER_RATIO = 2.0
"""An age is an outlier from this ratio to the median of its neighbours ..."""

MIN_EXCESS_DEVIATIONS = 4.0
"""... if it also exceeds it by this many Poisson standard deviations, so that small sets have no outliers by chance."""

NEIGHBOURS = 2

_MIN_COUNT = 4
"""Lower bound of the count for its standard deviation: at the oldest ages counts are small and heap by chance."""


@dataclass(frozen=True)
class Heaping:
    """Measures of age heaping.

    Attributes:
        index_5: 100: ages ending in 0 or 5 are as frequent as others; 500: there are only those. None without ages 23-62.
        index_10: the same for ages ending in 0; 100 to 1000.
        standing_out: age -> ratio of its count to the median of its four neighbours, for outliers.
    """

    index_5: float | None
    index_10: float | None
    standing_out: dict[int, float]


def age_heaping(by_age: Mapping[int, int]) -> Heaping:
    """Measure age heaping.

    Args:
        by_age: whole years -> images.
    """
    total = sum(count for age, count in by_age.items() if FIRST_AGE <= age <= LAST_AGE)
    indices = [100 * step * _multiples(by_age, step) / total if total else None for step in (5, 10)]
    return Heaping(indices[0], indices[1], _standing_out(by_age))


def _multiples(by_age: Mapping[int, int], step: int) -> int:
    return sum(by_age.get(age, 0) for age in range(FIRST_AGE, LAST_AGE + 1) if age % step == 0)


def _standing_out(by_age: Mapping[int, int]) -> dict[int, float]:
    outliers = {}
    oldest = max(by_age, default=0)
    for age, count in sorted(by_age.items()):
        near = [n for n in range(max(age - NEIGHBOURS, 1), min(age + NEIGHBOURS, oldest) + 1) if n != age]
        expected = statistics.median([by_age.get(n, 0) for n in near]) if near else 0
        excess = count - expected
        if (
            expected
            and count >= OUTLIER_RATIO * expected
            and excess > MIN_EXCESS_DEVIATIONS * max(expected, _MIN_COUNT) ** 0.5
        ):
            outliers[age] = count / expected
    return outliers
