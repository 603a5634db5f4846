"""What held-out images teach about a model's certainty: calibrated age intervals and gender probabilities.

The interval is split conformal: the error that a share ``coverage`` of calibration images stays within becomes the
width. An error is measured in spreads of the estimated age distribution, so that a face that the network is unsure of
gets a wider interval than another of its age. How honest the spread is depends on age, so errors are taken per band of
the predicted age (Mondrian conformal), each band wide enough to hold ``MIN_BAND_IMAGES``, and joined by straight lines
to one entry per year, so that no interval jumps.

Source: split and Mondrian conformal prediction (Vovk, Gammerman and Shafer, 2005, ch. 2 and 4); errors in units of their
expected size after Lei et al. (2018), sec. 5.2; separate tails after Romano, Patterson and Candes (2019), theorem 2;
temperature scaling (Guo et al., 2017) with Platt's (1999) targets.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from agegender.artifact import Calibration
from agegender.schema import AGE_BINS, MAX_AGE_YEARS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MIN_BAND_IMAGES = 100
"""Below it a 5 % tail rests on fewer than five images."""

_SMALLEST_FACTOR = 0.5
"""With the least spread half a year: ages are whole years. Also keeps the tails divisible."""

_TEMPERATURE_RANGE = (0.1, 10.0)


def fit_calibration(
    age_true: npt.ArrayLike,
    age_pred: npt.ArrayLike,
    age_spread: npt.ArrayLike,
    gender_true: npt.ArrayLike,
    gender_logit: npt.ArrayLike,
    coverage: float = 0.9,
) -> Calibration:
    """Fit gender temperature and age interval on images that the network was not trained on.

    Args:
        age_true: float[N], years; NaN where unlabelled.
        age_pred: float[N], years.
        age_spread: float[N], years, above 0: of the estimated distribution; ones for a scalar head.
        gender_true: int[N], 0 male, 1 female; negative where unlabelled.
        gender_logit: float[N], raw logit of female.
        coverage: share of faces whose age the interval shall hold, 0-1.

    Returns:
        A calibration; without a labelled age the interval is the whole range, without a gender the temperature is 1.
    """
    low, high = interval_factors(age_true, age_pred, age_spread, coverage)
    return Calibration(
        gender_temperature=gender_temperature(gender_true, gender_logit),
        interval_coverage=coverage,
        age_low_factors=[round(float(value), 4) for value in low],
        age_high_factors=[round(float(value), 4) for value in high],
    )


def gender_temperature(gender_true: npt.ArrayLike, gender_logit: npt.ArrayLike) -> float:
    """The temperature that makes the gender probabilities likeliest, within 0.1-10.

    Platt's softened targets stand for the labels, so that a small set without a mistake does not claim certainty.

    Args:
        gender_true: int[N], 0 or 1; negative where unlabelled.
        gender_logit: float[N].
    """
    genders = np.asarray(gender_true, dtype=np.int64)
    labelled = genders >= 0
    genders, logits = genders[labelled], np.asarray(gender_logit, dtype=np.float64)[labelled]
    if not genders.size:
        return 1.0
    females = int(genders.sum())
    targets = np.where(genders == 1, (females + 1) / (females + 2), 1 / (genders.size - females + 2))

    def loss_nats(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(np.mean(np.logaddexp(0.0, scaled) - targets * scaled))

    return round(math.exp(_golden_section(loss_nats, *(math.log(bound) for bound in _TEMPERATURE_RANGE))), 6)


def interval_factors(
    age_true: npt.ArrayLike, age_pred: npt.ArrayLike, age_spread: npt.ArrayLike, coverage: float = 0.9
) -> tuple[Floats, Floats]:
    """How many spreads below and above the estimate the interval reaches, by predicted age rounded half up.

    Args:
        age_true: float[N], years; NaN where unlabelled.
        age_pred: float[N], years.
        age_spread: float[N], years, above 0.
        coverage: share of faces that the interval shall hold, 0-1.

    Returns:
        Two float[121], at least 0.5: the estimate less the lower end, the upper end less the estimate, both by the
        spread; without a labelled age both reach over all ages.
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
        by_year = np.interp(np.arange(AGE_BINS), centres, np.maximum(factors, _SMALLEST_FACTOR))
        tables.append(by_year)
    low, high = tables
    years = rounded_age(estimate)
    # over all images, which tails and lines may miss
    stretch = np.maximum((estimate - truth) / (low[years] * spread), (truth - estimate) / (high[years] * spread))
    scale = max(conformal_quantile(stretch, coverage), 0.0)
    return np.maximum(low * scale, _SMALLEST_FACTOR), np.maximum(high * scale, _SMALLEST_FACTOR)


def conformal_quantile(scores: Floats, coverage: float) -> float:
    """The ceil((n + 1) * coverage)-th smallest score: a new one is below it with at least that probability.

    Args:
        scores: float[n], exchangeable with the new score, n >= 1.
        coverage: 0-1.

    Returns:
        The score; the largest where n is too small for the coverage, which then is n / (n + 1).
    """
    rank = min(math.ceil((scores.size + 1) * coverage), scores.size)
    return float(np.partition(scores, rank - 1)[rank - 1])


def age_bands(estimate: Floats, min_images: int = MIN_BAND_IMAGES) -> Integers:
    """Group predicted ages into neighbouring bands, each of at least ``min_images`` where there are so many.

    Args:
        estimate: float[N], years, N >= 1.
        min_images: smallest band.

    Returns:
        int64[N], the band of each, 0 upwards by age. Equal rounded ages share a band.
    """
    years = rounded_age(estimate)
    counts = np.bincount(years, minlength=AGE_BINS)
    band_of_year, band, held = np.zeros(AGE_BINS, dtype=np.int64), 0, 0
    for year in range(AGE_BINS):
        band_of_year[year] = band
        held += counts[year]
        if held >= min_images:
            band, held = band + 1, 0
    if held < min_images and band > 0:
        band_of_year[band_of_year == band] = band - 1
    return band_of_year[years]


def rounded_age(estimate: npt.ArrayLike) -> Integers:
    """Predicted ages as whole years, rounded half up, int64[N] within 0-120: the index into the offset tables."""
    return np.clip(np.floor(np.asarray(estimate, dtype=np.float64) + 0.5), 0, MAX_AGE_YEARS).astype(np.int64)


def _golden_section(loss: Callable[[float], float], low: float, high: float, tolerance: float = 1e-5) -> float:
    """Where a function with a single minimum between ``low`` and ``high`` has it."""
    ratio = (math.sqrt(5) - 1) / 2
    while high - low > tolerance:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    return (low + high) / 2
