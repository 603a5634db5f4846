"""Calibrate age intervals and gender probabilities on held-out images.

The interval is split conformal: its width is the error quantile at ``coverage`` of the calibration images. Errors are
normalised by the spread of the estimated age distribution, so that uncertain faces get wider intervals. The calibration of
the spread depends on age, so quantiles are computed per band of the predicted age (Mondrian conformal) with at least
``MIN_BAND_IMAGES`` each, and interpolated linearly to one entry per year, so that intervals are continuous.

Source: split and Mondrian conformal prediction (Vovk, Gammerman and Shafer, 2005, ch. 2 and 4); errors in units of their
expected size after Lei et al. (2018), sec. 5.2; separate tails after Romano, Patterson and Candes (2019), theorem 2;
temperature scaling (Guo et al., 2017) with Platt's (1999) targets.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from agegender.artifact import Calibration
from agegender.schema import AGE_BINS, MAX_AGE_YEARS, age_end_years

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MIN_BAND_IMAGES = 100
"""With fewer, a 5 % tail has fewer than five images."""

_MIN_FACTOR = 0.5
"""Half a year at the minimum spread, because ages are whole years. Also avoids a division by 0."""

_TEMPERATURE_RANGE = (0.1, 10.0)


def fit_calibration(
    age_true: npt.ArrayLike,
    age_pred: npt.ArrayLike,
    age_spread: npt.ArrayLike,
    gender_true: npt.ArrayLike,
    gender_logit: npt.ArrayLike,
    coverage: float = 0.9,
) -> Calibration:
    """Fit gender temperature and age interval on held-out images.

    Args:
        age_true: float[N], years; NaN where unlabelled.
        age_pred: float[N], years.
        age_spread: float[N], years, above 0: of the estimated distribution; ones for a scalar head.
        gender_true: int[N], 0 male, 1 female; negative where unlabelled.
        gender_logit: float[N], raw logit of female.
        coverage: target coverage of the interval, 0-1.

    Returns:
        A calibration; without labelled ages the interval is the whole range, without genders the temperature is 1.
    """
    low, high = interval_factors(age_true, age_pred, age_spread, coverage)
    return Calibration(
        gender_temperature=gender_temperature(gender_true, gender_logit),
        interval_coverage=coverage,
        age_low_factors=[round(float(value), 4) for value in low],
        age_high_factors=[round(float(value), 4) for value in high],
    )


def calibration_ages(
    age_years: npt.ArrayLike, age_ranges: npt.NDArray[np.float32] | None, age_pred: npt.ArrayLike
) -> Floats:
    """The ages to calibrate the interval on: the exact ones, or, with fewer than ``MIN_BAND_IMAGES``, ranges as well.

    The age of a range is taken to be the one that is nearest to the estimate, so that the interval then promises to meet the
    range; with enough exact ages nothing is taken to be known that is not.

    Args:
        age_years: float[N], exact ages; NaN where unlabelled or labelled with a range.
        age_ranges: float32[N, 2], first and last year of the range; NaN where there is none. None: no ranges.
        age_pred: float[N], years.

    Returns:
        float64[N]; NaN where none.
    """
    ages = np.asarray(age_years, dtype=np.float64)
    if age_ranges is None or np.count_nonzero(~np.isnan(ages)) >= MIN_BAND_IMAGES:
        return ages
    low, high = age_ranges[:, 0], age_ranges[:, 1]
    nearest: Floats = np.clip(np.asarray(age_pred, dtype=np.float64), low, age_end_years(low, high))
    return np.where(np.isnan(low), ages, nearest)


def gender_temperature(gender_true: npt.ArrayLike, gender_logit: npt.ArrayLike) -> float:
    """The maximum-likelihood temperature of the gender probabilities, within 0.1-10; 1 without a known gender.

    Args:
        gender_true: int[N], 0 or 1; negative where unlabelled.
        gender_logit: float[N].
    """
    if not (np.asarray(gender_true) >= 0).any():
        return 1.0
    loss_nats = gender_loss_nats(gender_true, gender_logit)
    log_range = (math.log(bound) for bound in _TEMPERATURE_RANGE)
    return round(
        math.exp(golden_section(lambda log_temperature: loss_nats(0.0, math.exp(log_temperature)), *log_range)), 6
    )


def gender_loss_nats(gender_true: npt.ArrayLike, gender_logit: npt.ArrayLike) -> Callable[[float, float], float]:
    """The mean cross-entropy of gender as a function of what is added to the logit, and then of what it is divided by.

    Uses Platt's smoothed targets, so that a small set without errors does not give a temperature of certainty.

    Args:
        gender_true: int[N], 0 or 1; negative where unlabelled. At least one is known.
        gender_logit: float[N].
    """
    genders = np.asarray(gender_true, dtype=np.int64)
    labelled = genders >= 0
    genders, logits = genders[labelled], np.asarray(gender_logit, dtype=np.float64)[labelled]
    females = int(genders.sum())
    targets = np.where(genders == 1, (females + 1) / (females + 2), 1 / (genders.size - females + 2))

    def loss_nats(shift: float, temperature: float) -> float:
        scaled = (logits + shift) / temperature
        return float(np.mean(np.logaddexp(0.0, scaled) - targets * scaled))

    return loss_nats


def interval_factors(
    age_true: npt.ArrayLike, age_pred: npt.ArrayLike, age_spread: npt.ArrayLike, coverage: float = 0.9
) -> tuple[Floats, Floats]:
    """Width of the interval below and above the estimate in units of the spread, by predicted age rounded half up.

    Args:
        age_true: float[N], years; NaN where unlabelled.
        age_pred: float[N], years.
        age_spread: float[N], years, above 0.
        coverage: target coverage, 0-1.

    Returns:
        Two float[121], at least 0.5: (estimate - low) / spread and (high - estimate) / spread. Without labelled ages both
        cover all ages.
    """
    truth, estimate, spread = (np.asarray(values, dtype=np.float64) for values in (age_true, age_pred, age_spread))
    labelled = ~np.isnan(truth)
    truth, estimate, spread = truth[labelled], estimate[labelled], spread[labelled]
    if not truth.size:
        return np.full(AGE_BINS, float(MAX_AGE_YEARS)), np.full(AGE_BINS, float(MAX_AGE_YEARS))
    tail = 1 - (1 - coverage) / 2
    bands = age_bands(estimate)
    centres = np.array([np.median(estimate[bands == band]) for band in range(bands.max() + 1)])
    tables = []
    for errors in ((estimate - truth) / spread, (truth - estimate) / spread):
        factors = [conformal_quantile(errors[bands == band], tail) for band in range(centres.size)]
        by_year = np.interp(np.arange(AGE_BINS), centres, np.maximum(factors, _MIN_FACTOR))
        tables.append(by_year)
    low, high = tables
    years = rounded_age(estimate)
    # rescale to the coverage over all images, which separate tails and interpolation may miss
    stretch = np.maximum((estimate - truth) / (low[years] * spread), (truth - estimate) / (high[years] * spread))
    scale = max(conformal_quantile(stretch, coverage), 0.0)
    return np.maximum(low * scale, _MIN_FACTOR), np.maximum(high * scale, _MIN_FACTOR)


def conformal_quantile(scores: Floats, coverage: float) -> float:
    """The ceil((n + 1) * coverage)-th smallest score: a new score is at most this with at least that probability.

    Args:
        scores: float[n], exchangeable with the new score, n >= 1.
        coverage: 0-1.

    Returns:
        The score; if n is too small the largest, with coverage n / (n + 1).
    """
    rank = min(math.ceil((scores.size + 1) * coverage), scores.size)
    return float(np.partition(scores, rank - 1)[rank - 1])


def age_bands(estimate: Floats, min_images: int = MIN_BAND_IMAGES) -> Integers:
    """Group predicted ages into consecutive bands of at least ``min_images`` each, if there are that many.

    Args:
        estimate: float[N], years, N >= 1.
        min_images: smallest band.

    Returns:
        int64[N], band index, ascending by age. Equal rounded ages are in the same band.
    """
    years = rounded_age(estimate)
    counts = np.bincount(years, minlength=AGE_BINS)
    band_of_year, band, count = np.zeros(AGE_BINS, dtype=np.int64), 0, 0
    for year in range(AGE_BINS):
        band_of_year[year] = band
        count += counts[year]
        if count >= min_images:
            band, count = band + 1, 0
    if count < min_images and band > 0:
        band_of_year[band_of_year == band] = band - 1
    return band_of_year[years]


def rounded_age(estimate: npt.ArrayLike) -> Integers:
    """Predicted ages as whole years, rounded half up, int64[N] within 0-120: the index into the factor tables."""
    return np.clip(np.floor(np.asarray(estimate, dtype=np.float64) + 0.5), 0, MAX_AGE_YEARS).astype(np.int64)


def golden_section(loss: Callable[[float], float], low: float, high: float, tolerance: float = 1e-5) -> float:
    """Minimise a unimodal function on [low, high] by golden-section search."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > tolerance:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return (low + high) / 2
