"""Calibrate by the size of the face: what intervals and gender probabilities of small faces are corrected by.

A face of few pixels is judged worse, and a model that has mostly seen large ones does not know by how much: its intervals
lose coverage, ages drift down, and one gender is taken for the other more often. Here the calibration of whole crops
(``conformal``) is corrected for validation images that were reduced to several sizes.

Source: as ``conformal``; the gender probability by Platt (1999), shift and temperature.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agegender.artifact import Calibration, FaceSizeCalibration
from agegender.evaluation.conformal import (
    MIN_BAND_IMAGES,
    Floats,
    conformal_quantile,
    gender_loss_nats,
    golden_section,
    rounded_age,
)
from agegender.schema import MAX_AGE_YEARS

SIZES_PX = (12, 16, 20, 24, 32, 48, 64, 96, 128)
"""Sizes that are calibrated for: those of them that are at most ``LARGEST_SHARE`` of the face that the network takes."""

LARGEST_SHARE = 0.75
"""Nearer to it nothing but the resizing itself would be measured."""

IMAGES = 2000
"""How many validation images are reduced to each size: each is scored as often as there are sizes."""

_MIN_WIDTH_YEARS = 0.5
_SHIFT_RANGE = (-3.0, 3.0)
_LARGEST_TEMPERATURE = 10.0


@dataclass(frozen=True)
class SizedEstimates:
    """Labels, and calibrated estimates from images of one face size; N images."""

    age_true: npt.ArrayLike
    """float[N], years; NaN where unlabelled."""

    age_pred: npt.ArrayLike
    age_low: npt.ArrayLike
    age_high: npt.ArrayLike

    gender_true: npt.ArrayLike
    """int[N], 0 male, 1 female; negative where unlabelled."""

    gender_logit: npt.ArrayLike
    """float[N], calibrated."""


def fit_by_face_size(
    by_face_px: Mapping[float, SizedEstimates], whole_face_px: float, coverage: float = 0.9
) -> list[FaceSizeCalibration]:
    """Fit the corrections for several sizes.

    Both ends of the interval are widened until half of the misses that are meant lie beyond each. No interval is narrower and
    no temperature lower than of the next larger size: that would be chance.

    Args:
        by_face_px: face size -> estimates from images reduced to it.
        whole_face_px: size from which on no pixel is missing; larger than all others.
        coverage: target coverage of the interval, 0-1.

    Returns:
        ``Calibration.by_face_size``; empty if there is no size.
    """
    table = [FaceSizeCalibration(face_px=whole_face_px)] if by_face_px else []
    tail = 1 - (1 - coverage) / 2
    for face_px in sorted(by_face_px, reverse=True):
        larger, estimates = table[-1], by_face_px[face_px]
        low, high = _factors(estimates, tail)
        shift, temperature = _gender_correction(estimates, larger.gender_temperature)
        table.append(
            FaceSizeCalibration(
                face_px=face_px,
                age_low_factor=max(round(low, 4), larger.age_low_factor),
                age_high_factor=max(round(high, 4), larger.age_high_factor),
                gender_shift=round(shift, 4),
                gender_temperature=max(round(temperature, 4), larger.gender_temperature),
            )
        )
    return table[::-1]


def interval(calibration: Calibration, age_pred: npt.ArrayLike, age_spread: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Low and high end of the interval of whole crops, float64[N] each, as the graph computes them.

    Args:
        calibration: of the model.
        age_pred: float[N], years.
        age_spread: float[N], years.
    """
    age, spread = np.asarray(age_pred, dtype=np.float64), np.asarray(age_spread, dtype=np.float64)
    low, high = (
        np.array(table)[rounded_age(age)] for table in (calibration.age_low_factors, calibration.age_high_factors)
    )
    return np.maximum(age - low * spread, 0.0), np.minimum(age + high * spread, float(MAX_AGE_YEARS))


def _factors(estimates: SizedEstimates, tail: float) -> tuple[float, float]:
    """By how much either end is too near, at least 1."""
    truth, age, low, high = (
        np.asarray(values, dtype=np.float64)
        for values in (estimates.age_true, estimates.age_pred, estimates.age_low, estimates.age_high)
    )
    known = ~np.isnan(truth)
    if not known.any():
        return 1.0, 1.0
    truth, age, low, high = truth[known], age[known], low[known], high[known]
    below = (age - truth) / np.maximum(age - low, _MIN_WIDTH_YEARS)
    above = (truth - age) / np.maximum(high - age, _MIN_WIDTH_YEARS)
    return max(conformal_quantile(below, tail), 1.0), max(conformal_quantile(above, tail), 1.0)


def _gender_correction(estimates: SizedEstimates, least_temperature: float) -> tuple[float, float]:
    """The most likely shift and temperature; too few images for both give no shift."""
    known = np.asarray(estimates.gender_true) >= 0
    if np.count_nonzero(known) < MIN_BAND_IMAGES:
        return 0.0, 1.0
    loss = gender_loss_nats(estimates.gender_true, estimates.gender_logit)

    def best_shift(temperature: float) -> float:
        return golden_section(lambda shift: loss(shift, temperature), *_SHIFT_RANGE, tolerance=1e-3)

    def of_temperature(temperature: float) -> float:
        return loss(best_shift(temperature), temperature)

    found = golden_section(of_temperature, least_temperature, _LARGEST_TEMPERATURE, tolerance=1e-3)
    temperature = min(least_temperature, found, key=of_temperature)  # the search never reaches its bounds
    return best_shift(temperature), temperature
