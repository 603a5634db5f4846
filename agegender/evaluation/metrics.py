"""Metrics as sums that can be merged over the parts of a set.

Each metric is a mean over the images that have its label, so a part only needs (sum, count). Exact ages and ranges of ages
have metrics of their own: an error to a range is smaller than one to the age that is not known.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from agegender.schema import age_end_years

Floats = npt.NDArray[np.float64]

WITHIN_YEARS = 5.0

METRICS = (
    "age_mae_years",
    "age_bias_years",
    "age_within_5_years",
    "gender_accuracy",
    "interval_coverage",
    "interval_width_years",
)
"""Over exact ages and genders; the width of the interval also over ranges."""

RANGE_METRICS = (
    "age_in_range",
    "age_mae_to_range_years",
    "age_bucket_accuracy",
    "age_within_one_bucket",
    "interval_meets_range",
)
"""Over images whose age is labelled as a range. An interval meets a range if they have a moment in common."""

COLUMNS = (*METRICS, *RANGE_METRICS)
"""In the order of ``contributions``."""


@dataclass(frozen=True)
class Observations:
    """Labels and estimates of N images, as columns: 37 bytes per image."""

    age_true: npt.NDArray[np.float32]
    """Exact age in years; NaN where unlabelled or labelled with a range."""

    gender_true: npt.NDArray[np.int8]
    """0 male, 1 female; -1 where unlabelled."""

    race: npt.NDArray[np.int8]
    """Index into the names of the set's groups; -1 where unlabelled."""

    age_pred: npt.NDArray[np.float32]
    age_low: npt.NDArray[np.float32]
    age_high: npt.NDArray[np.float32]
    female_probability: npt.NDArray[np.float32]

    range_low: npt.NDArray[np.float32]
    """First year of the range of ages; NaN where the age is exact or unlabelled."""

    range_high: npt.NDArray[np.float32]
    """Last whole year of the range."""

    bucket_steps: npt.NDArray[np.int8]
    """How many buckets the estimate is from the range's (``bucketed``); -1 where the ranges are no buckets."""

    source: npt.NDArray[np.int16]
    """Index into the names of the sources; -1 where they are not told apart."""

    def __len__(self) -> int:
        return int(self.age_true.size)

    def take(self, which: npt.NDArray[Any]) -> Self:
        """Select images by index array or mask."""
        return type(self)(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Concatenate at least one part."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @property
    def age_labelled(self) -> npt.NDArray[np.bool_]:
        """bool[N]: images with a known exact age."""
        return ~np.isnan(self.age_true)

    @property
    def range_labelled(self) -> npt.NDArray[np.bool_]:
        """bool[N]: images whose age is known as a range."""
        return ~np.isnan(self.range_low)

    @property
    def gender_labelled(self) -> npt.NDArray[np.bool_]:
        """bool[N]: images with a known gender."""
        return self.gender_true >= 0


def contributions(observations: Observations) -> Floats:
    """The contribution of each image to each metric.

    Returns:
        float64[N, M], METRICS and then RANGE_METRICS; NaN if the image does not have the metric's label.
    """
    error = observations.age_pred.astype(np.float64) - observations.age_true
    known, gender_known = observations.age_labelled, observations.gender_labelled
    correct = (observations.female_probability >= 0.5) == (observations.gender_true == 1)
    inside = (observations.age_true >= observations.age_low) & (observations.age_true <= observations.age_high)
    width = observations.age_high.astype(np.float64) - observations.age_low
    columns = (
        np.abs(error),
        error,
        np.where(known, np.abs(error) <= WITHIN_YEARS, np.nan),
        np.where(gender_known, correct, np.nan),
        np.where(known, inside, np.nan),
        np.where(known | observations.range_labelled, width, np.nan),
    )
    return np.stack([*columns, *_range_contributions(observations)], axis=1)


def _range_contributions(observations: Observations) -> tuple[Floats, ...]:
    ranged = observations.range_labelled
    outside = years_outside(observations)
    end = age_end_years(observations.range_low, observations.range_high)
    meets = (observations.age_high >= observations.range_low) & (observations.age_low <= end)
    bucketed = observations.bucket_steps >= 0
    return (
        np.where(ranged, outside == 0, np.nan),
        outside,
        np.where(bucketed, observations.bucket_steps == 0, np.nan),
        np.where(bucketed, observations.bucket_steps <= 1, np.nan),
        np.where(ranged, meets, np.nan),
    )


def years_outside(observations: Observations) -> Floats:
    """Distance of each estimate to the nearest end of its range, float64[N]: 0 inside, NaN without a range."""
    end = age_end_years(observations.range_low, observations.range_high).astype(np.float64)
    below, above = observations.range_low.astype(np.float64) - observations.age_pred, observations.age_pred - end
    outside: Floats = np.maximum(np.maximum(below, above), np.where(observations.range_labelled, 0.0, np.nan))
    return outside


def age_errors(observations: Observations) -> Floats:
    """Absolute age error of each image in years, to the nearest end of a range; float64[N], NaN without an age."""
    exact = np.abs(observations.age_pred.astype(np.float64) - observations.age_true)
    errors: Floats = np.where(observations.range_labelled, years_outside(observations), exact)
    return errors


def ranges_of(observations: Observations) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The distinct ranges of some images, int64[R, 2] ascending, and the index of each image's, int64[N]; -1 without one."""
    ranged = observations.range_labelled
    keys = (observations.range_low[ranged] * 1000 + observations.range_high[ranged]).astype(np.int64)
    distinct, index = np.unique(keys, return_inverse=True)
    which = np.full(len(observations), -1, dtype=np.int64)
    which[ranged] = index
    return np.stack(np.divmod(distinct, 1000), axis=1), which


def bucketed(observations: Observations) -> Observations:
    """Set ``bucket_steps`` if the ranges of a set are buckets: at least two, of which no two have a year in common.

    An estimate is in the bucket that is nearest to it; a gap between two of them is divided in its middle.
    """
    ranges, true = ranges_of(observations)
    low, high = ranges[:, 0], ranges[:, 1]
    if len(ranges) < 2 or (low[1:] <= high[:-1]).any():
        return observations
    estimated = np.searchsorted((high[:-1] + 1 + low[1:]) / 2, observations.age_pred, side="right")
    steps = np.where(true >= 0, np.abs(estimated - true), -1).astype(np.int8)
    return replace(observations, bucket_steps=steps)


@dataclass(frozen=True)
class MetricSums:
    """Sums and counts of each metric over a part of a set; parts can be added."""

    images: int
    sums: Floats
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, observations: Observations) -> Self:
        """The sums of N images, N >= 0."""
        values = contributions(observations)
        counts = np.count_nonzero(~np.isnan(values), axis=0).astype(np.int64)
        return cls(len(observations), np.nansum(values, axis=0), counts)

    def __add__(self, other: "MetricSums") -> "MetricSums":
        return MetricSums(self.images + other.images, self.sums + other.sums, self.counts + other.counts)

    def values(self) -> dict[str, float | None]:
        """The metrics; None if no image has the label."""
        return {
            name: float(self.sums[i] / self.counts[i]) if self.counts[i] else None for i, name in enumerate(COLUMNS)
        }

    @property
    def n_age(self) -> int:
        """Images with a known exact age."""
        return int(self.counts[METRICS.index("age_mae_years")])

    @property
    def n_age_range(self) -> int:
        """Images whose age is known as a range."""
        return int(self.counts[COLUMNS.index("age_in_range")])

    @property
    def n_gender(self) -> int:
        """Images with a known gender."""
        return int(self.counts[METRICS.index("gender_accuracy")])


def median_error_years(observations: Observations) -> float | None:
    """Median absolute age error in years; not mergeable. None without a known age."""
    error = np.abs(observations.age_pred - observations.age_true)[observations.age_labelled]
    return float(np.median(error)) if error.size else None


def error_histogram(observations: Observations, largest_years: int = 40) -> tuple[Floats, Floats]:
    """Histogram of signed age errors, in bins of a year.

    Args:
        observations: N images; those without a known age are ignored.
        largest_years: larger errors are clipped to this.

    Returns:
        float64[K] counts, float64[K + 1] edges in years.
    """
    edges = np.arange(-largest_years - 0.5, largest_years + 1)
    error = (observations.age_pred.astype(np.float64) - observations.age_true)[observations.age_labelled]
    counts, _ = np.histogram(np.clip(error, -largest_years, largest_years), edges)
    return counts.astype(np.float64), edges
