"""Disaggregated metrics: by source, age group, labelled range of ages, gender, race, estimates, and intersections."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from agegender.evaluation.bootstrap import mean_bounds, median_bounds, share_bounds
from agegender.evaluation.calibration import gender_calibration_error
from agegender.evaluation.metrics import (
    METRICS,
    RANGE_METRICS,
    MetricSums,
    Observations,
    contributions,
    median_error_years,
    ranges_of,
)
from agegender.schema import AGE_GROUPS, GENDERS, RACES, age_end_years, age_group_index, age_text

SLICINGS: dict[tuple[str, ...], int] = {
    ("source",): 1,
    ("age_group",): 1,
    ("age_range",): 1,
    ("gender",): 1,
    ("race",): 1,
    ("estimated_age_group",): 1,
    ("estimated_gender",): 1,
    ("age_group", "gender"): 1,
    ("age_group", "race"): 100,
    ("age_range", "race"): 100,
    ("age_group", "gender", "race"): 30,
}
"""What is sliced by -> images of the smallest slice: the bounds of smaller ones would be too wide."""

MAX_RANGES = 60
"""A set with more distinct ranges is not sliced by them."""

_ATTRIBUTES = ("source", "age_group", "age_range", "gender", "race", "estimated_age_group", "estimated_gender")

SCHEMA = pa.schema(
    [
        pa.field("slice", pa.string(), nullable=False),
        *(pa.field(name, pa.dictionary(pa.int16(), pa.string())) for name in _ATTRIBUTES),
        *(pa.field(name, pa.int64(), nullable=False) for name in ("n", "n_age", "n_age_range", "n_gender")),
        *(
            pa.field(f"{metric}{end}", pa.float64())
            for metric in (*METRICS, *RANGE_METRICS, "age_median_error_years")
            for end in ("", "_low", "_high")
        ),
        pa.field("gender_calibration_error", pa.float64()),
    ]
)
"""Schema of slices.parquet, the rows of ``slice_rows``."""

Bounded = dict[str, float | None]
"""``{"value": 5.1, "low": 4.9, "high": 5.3}``; each None if no image has the label."""


def bounded_metrics(observations: Observations, rounds: int, seed: int) -> dict[str, Bounded]:
    """All metrics with 95 % bounds, including ``age_median_error_years``.

    Args:
        observations: N images.
        rounds: resamples of the bootstrap.
        seed: same seed, same bounds.
    """
    values = MetricSums.of(observations).values()
    lows, highs = mean_bounds(contributions(observations), rounds, seed)
    result = {name: _bounded(values[name], lows[i], highs[i]) for i, name in enumerate((*METRICS, *RANGE_METRICS))}
    median = median_error_years(observations)
    low, high = np.nan, np.nan
    if median is not None:
        error = np.abs(observations.age_pred.astype(np.float64) - observations.age_true)[observations.age_labelled]
        low, high = median_bounds(error, rounds, seed)
    return result | {"age_median_error_years": _bounded(median, low, high)}


def slice_rows(
    observations: Observations, rounds: int, seed: int, races: Sequence[str] = RACES, sources: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """One row per non-empty slice.

    Args:
        observations: N images.
        rounds: resamples of the bootstrap.
        seed: same seed, same bounds.
        races: names of the groups that ``observations.race`` counts.
        sources: names of the sources that ``observations.source`` counts; one alone is not sliced by.

    Returns:
        Rows with ``slice`` (e.g. ``age_group x gender``), each of ``_ATTRIBUTES`` (None where not sliced by), ``n``, ``n_age``,
        ``n_age_range``, ``n_gender``, ``METRIC``, ``METRIC_low``, ``METRIC_high`` for each metric, and
        ``gender_calibration_error``, which is None by true gender: all of a slice have one, whatever the probability.
    """
    codes = _slice_codes(observations)
    ranges, codes["age_range"] = ranges_of(observations)
    if len(ranges) > MAX_RANGES:
        codes["age_range"] = np.full(len(observations), -1, dtype=np.int64)
    if len(sources) < 2:
        codes["source"] = np.full(len(observations), -1, dtype=np.int64)
    names = {
        "source": sources,
        "age_group": AGE_GROUPS,
        "age_range": [age_text(*ends) for ends in ranges.tolist()],
        "gender": GENDERS,
        "race": races,
        "estimated_age_group": AGE_GROUPS,
        "estimated_gender": GENDERS,
    }
    return [
        {
            "slice": " x ".join(by),
            **{name: names[name][labels[name]] if name in labels else None for name in _ATTRIBUTES},
            **_metric_columns(observations.take(mask), rounds, seed),
            "gender_calibration_error": None if "gender" in by else gender_calibration_error(observations.take(mask)),
        }
        for by, least in SLICINGS.items()
        for labels, mask in _members(by, codes)
        if np.count_nonzero(mask) >= least
    ]


def by_source(observations: Observations, rounds: int, seed: int, sources: Sequence[str]) -> dict[str, dict[str, Any]]:
    """All bounded metrics and the gender calibration error of each source; see ``slice_rows``."""
    parts = {name: observations.take(observations.source == index) for index, name in enumerate(sources)}
    return {
        name: {
            **_counts(MetricSums.of(part)),
            **bounded_metrics(part, rounds, seed),
            "gender_calibration_error": gender_calibration_error(part),
        }
        for name, part in parts.items()
    }


def confusion(observations: Observations) -> npt.NDArray[np.int64]:
    """Images by true (rows) and estimated (columns) age group, int64[11, 11], over those with a known age."""
    known = observations.take(observations.age_labelled)
    groups = len(AGE_GROUPS)
    cells = age_group_index(known.age_true) * groups + age_group_index(known.age_pred)
    return np.bincount(cells, minlength=groups * groups).reshape(groups, groups).astype(np.int64)


def age_assurance(observations: Observations) -> dict[str, dict[str, Any]]:
    """Error rates of an age check by the point estimate: minors accepted as adults, adults rejected.

    A range of ages counts if all of it is on one side.

    Returns:
        ``minors_13_17`` and ``adults``, each with ``n`` and shares with Wilson's 95 % bounds.
    """
    exact = observations.age_labelled
    low = np.where(exact, observations.age_true, observations.range_low)
    end = np.where(exact, observations.age_true, age_end_years(observations.range_low, observations.range_high))
    minors = observations.age_pred[(low >= 13) & (end < 18)]
    adults = observations.age_pred[low >= 18]
    return {
        "minors_13_17": {
            "n": int(minors.size),
            "estimated_18_or_over": _share(minors >= 18),
            "estimated_25_or_over": _share(minors >= 25),
        },
        "adults": {
            "n": int(adults.size),
            "estimated_under_18": _share(adults < 18),
            "estimated_under_25": _share(adults < 25),
        },
    }


def _slice_codes(observations: Observations) -> dict[str, npt.NDArray[np.int64]]:
    """Codes of each attribute, int64[N]; -1 if unlabelled, or where a range spans several age groups."""
    ages = np.full(len(observations), -1, dtype=np.int64)
    ages[observations.age_labelled] = age_group_index(observations.age_true[observations.age_labelled])
    ranged = np.flatnonzero(observations.range_labelled)
    first, last = (age_group_index(ends[ranged]) for ends in (observations.range_low, observations.range_high))
    ages[ranged[first == last]] = first[first == last]
    return {
        "source": observations.source.astype(np.int64),
        "age_group": ages,
        "gender": observations.gender_true.astype(np.int64),
        "race": observations.race.astype(np.int64),
        "estimated_age_group": age_group_index(observations.age_pred),
        "estimated_gender": (observations.female_probability >= 0.5).astype(np.int64),
    }


def _members(
    by: tuple[str, ...], codes: dict[str, npt.NDArray[np.int64]]
) -> Iterator[tuple[dict[str, int], npt.NDArray[np.bool_]]]:
    """The codes of each slice and the mask of its images, bool[N]."""
    stacked = np.stack([codes[name] for name in by], axis=1)
    for key in np.unique(stacked[(stacked >= 0).all(axis=1)], axis=0):
        yield dict(zip(by, key.tolist(), strict=True)), (stacked == key).all(axis=1)


def _metric_columns(part: Observations, rounds: int, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = _counts(MetricSums.of(part))
    for name, bounded in bounded_metrics(part, rounds, seed).items():
        row |= {name: bounded["value"], f"{name}_low": bounded["low"], f"{name}_high": bounded["high"]}
    return row


def _counts(sums: MetricSums) -> dict[str, Any]:
    return {"n": sums.images, "n_age": sums.n_age, "n_age_range": sums.n_age_range, "n_gender": sums.n_gender}


def _share(hits: npt.NDArray[np.bool_]) -> Bounded:
    if not hits.size:
        return {"value": None, "low": None, "high": None}
    low, high = share_bounds(int(hits.sum()), hits.size)
    return _bounded(float(hits.mean()), low, high)


def _bounded(value: float | None, low: float, high: float) -> Bounded:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
