"""Calibration metrics: reliability of the gender probability, coverage of the age interval by group."""

from typing import Any

import numpy as np
import numpy.typing as npt

from agegender.evaluation.bootstrap import share_bounds
from agegender.evaluation.metrics import COLUMNS, Observations, contributions
from agegender.schema import AGE_GROUPS, age_group_index

RELIABILITY_BINS = 15


def reliability(observations: Observations, bins: int = RELIABILITY_BINS) -> list[dict[str, Any]]:
    """Reliability diagram: predicted probability of female against the observed share, in bins of equal size.

    Args:
        observations: N images; those without a known gender are ignored.
        bins: number of bins; fewer if there are fewer images.

    Returns:
        Per bin ``n``, ``stated``, ``observed`` and the observed share's 95 % bounds ``low`` and ``high``.
    """
    known = observations.take(observations.gender_labelled)
    order = np.argsort(known.female_probability, kind="stable")
    stated, female = known.female_probability[order].astype(np.float64), (known.gender_true == 1)[order]
    rows = []
    for part in np.array_split(np.arange(order.size), bins):
        if part.size:
            low, high = share_bounds(int(female[part].sum()), part.size)
            observed = float(female[part].mean())
            rows.append(
                {"n": part.size, "stated": float(stated[part].mean()), "observed": observed, "low": low, "high": high}
            )
    return rows


def expected_calibration_error(rows: list[dict[str, Any]]) -> float | None:
    """Expected calibration error: mean |stated - observed| over the bins of ``reliability``, weighted by images; None if empty.

    Source: Naeini, Cooper and Hauskrecht (2015), with bins of equal size after Nixon et al. (2019).
    """
    n = sum(row["n"] for row in rows)
    return float(sum(row["n"] * abs(row["stated"] - row["observed"]) for row in rows) / n) if n else None


def gender_calibration_error(observations: Observations) -> float | None:
    """The expected calibration error of some images, rounded; None without a known gender."""
    error = expected_calibration_error(reliability(observations))
    return None if error is None else round(error, 4)


def interval_by_group(observations: Observations, by: str) -> list[dict[str, Any]]:
    """Coverage and mean width of the age interval per ten-year group.

    Args:
        observations: N images; those without a known age are ignored.
        by: ``estimated`` groups by the estimate, for which calibration guarantees coverage; ``true`` by the label, for which
            it does not, both of exact ages; ``estimated_of_ranges`` by the estimate, of ranges of ages, which an interval
            covers if they meet.

    Returns:
        Per group with images ``age_group``, ``n``, ``coverage``, its 95 % bounds ``low`` and ``high``, ``width_years``.
    """
    of_ranges = by == "estimated_of_ranges"
    known = observations.take(observations.range_labelled if of_ranges else observations.age_labelled)
    covered = contributions(known)[:, COLUMNS.index("interval_meets_range" if of_ranges else "interval_coverage")] == 1
    groups = age_group_index(known.age_true if by == "true" else known.age_pred)
    return [
        _group_row(known.take(groups == group), covered[groups == group], AGE_GROUPS[group])
        for group in np.unique(groups)
    ]


def _group_row(part: Observations, covered: npt.NDArray[np.bool_], name: str) -> dict[str, Any]:
    low, high = share_bounds(int(covered.sum()), len(part))
    width = float((part.age_high.astype(np.float64) - part.age_low).mean())
    shares = {"coverage": float(covered.mean()), "low": low, "high": high, "width_years": width}
    return {"age_group": name, "n": len(part)} | {key: round(value, 4) for key, value in shares.items()}
