"""Metrics as sums that can be merged over the parts of a set.

Each metric is a mean over the images that have its label, so a part only needs (sum, count).
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

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
"""The columns of ``contributions``."""


@dataclass(frozen=True)
class Observations:
    """Labels and estimates of N images, as columns: 26 bytes per image."""

    age_true: npt.NDArray[np.float32]
    """Years; NaN where unlabelled."""

    gender_true: npt.NDArray[np.int8]
    """0 male, 1 female; -1 where unlabelled."""

    race: npt.NDArray[np.int8]
    """Index into ``schema.RACES``; -1 where unlabelled."""

    age_pred: npt.NDArray[np.float32]
    age_low: npt.NDArray[np.float32]
    age_high: npt.NDArray[np.float32]
    female_probability: npt.NDArray[np.float32]

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
        """bool[N]: images with a known age."""
        return ~np.isnan(self.age_true)

    @property
    def gender_labelled(self) -> npt.NDArray[np.bool_]:
        """bool[N]: images with a known gender."""
        return self.gender_true >= 0


def contributions(observations: Observations) -> Floats:
    """The contribution of each image to each metric.

    Returns:
        float64[N, len(METRICS)]; NaN if the image does not have the metric's label.
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
        np.where(known, width, np.nan),
    )
    return np.stack(columns, axis=1)


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
            name: float(self.sums[i] / self.counts[i]) if self.counts[i] else None for i, name in enumerate(METRICS)
        }

    @property
    def n_age(self) -> int:
        """Images with a known age."""
        return int(self.counts[METRICS.index("age_mae_years")])

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
