"""What is measured on each image, as sums that can be merged over any parts of a set.

Every metric is a mean over the images that carry its label, so (sum, count) is all that a part has to hand on.
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
"""In the order of the columns of ``contributions``."""


@dataclass(frozen=True)
class Observations:
    """Labels and estimates of N images, column by column: 26 bytes per image."""

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
        """The images at an index array or under a mask."""
        return type(self)(**{field.name: getattr(self, field.name)[which] for field in fields(self)})

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """All images of several parts, in order; at least one part."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @property
    def age_labelled(self) -> npt.NDArray[np.bool_]:
        """bool[N]: images with a known age."""
        return ~np.isnan(self.age_true)

    @property
    def gender_labelled(self) -> npt.NDArray[np.bool_]:
        """bool[N]: images with a known gender."""
        return self.gender_true >= 0


def contributions(seen: Observations) -> Floats:
    """What each image adds to each metric.

    Returns:
        float64[N, len(METRICS)]; NaN where the image carries no label for the metric.
    """
    error = seen.age_pred.astype(np.float64) - seen.age_true
    known, gender_known = seen.age_labelled, seen.gender_labelled
    right = (seen.female_probability >= 0.5) == (seen.gender_true == 1)
    inside = (seen.age_true >= seen.age_low) & (seen.age_true <= seen.age_high)
    width = seen.age_high.astype(np.float64) - seen.age_low
    columns = (
        np.abs(error),
        error,
        np.where(known, np.abs(error) <= WITHIN_YEARS, np.nan),
        np.where(gender_known, right, np.nan),
        np.where(known, inside, np.nan),
        np.where(known, width, np.nan),
    )
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class MetricSums:
    """Sums and counts of every metric over a part of a set; add parts, then divide once."""

    images: int
    sums: Floats
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, seen: Observations) -> Self:
        """The sums of some images; of none, too."""
        added = contributions(seen)
        return cls(len(seen), np.nansum(added, axis=0), np.count_nonzero(~np.isnan(added), axis=0).astype(np.int64))

    def __add__(self, other: "MetricSums") -> "MetricSums":
        return MetricSums(self.images + other.images, self.sums + other.sums, self.counts + other.counts)

    def values(self) -> dict[str, float | None]:
        """Each metric; None where no image carried its label."""
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


def median_error_years(seen: Observations) -> float | None:
    """Median absolute age error in years; not a sum, so it needs all images at once. None without a known age."""
    error = np.abs(seen.age_pred - seen.age_true)[seen.age_labelled]
    return float(np.median(error)) if error.size else None


def error_histogram(seen: Observations, largest_years: int = 40) -> tuple[Floats, Floats]:
    """Images by signed age error, in bins of a year.

    Args:
        seen: N images; those without a known age have no part.
        largest_years: errors beyond count as this.

    Returns:
        float64[K] images, float64[K + 1] edges in years.
    """
    edges = np.arange(-largest_years - 0.5, largest_years + 1)
    error = (seen.age_pred.astype(np.float64) - seen.age_true)[seen.age_labelled]
    counts, _ = np.histogram(np.clip(error, -largest_years, largest_years), edges)
    return counts.astype(np.float64), edges
