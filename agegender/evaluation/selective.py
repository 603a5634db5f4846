"""Selective prediction: error as a function of the share of faces answered (risk-coverage curve).

Source: El-Yaniv and Wiener (2010); here faces are ranked by the width of the age interval.
"""

from typing import Any

import numpy as np

from agegender.evaluation.metrics import MetricSums, Observations

ANSWERED_SHARES = tuple(step / 20 for step in range(20, 1, -1))
"""From all faces down to a tenth."""


def selective_prediction(observations: Observations) -> list[dict[str, Any]]:
    """Error over the faces with the narrowest intervals, for decreasing shares of all faces.

    Faces of equal width are answered together, so that a row is the result of ``--abstain-above`` with its width.

    Args:
        observations: N images; those without a known age are ignored.

    Returns:
        Per row ``answered`` (share of faces), ``n``, ``width_limit_years`` (the widest interval that is answered),
        ``age_mae_years``, ``interval_coverage``, and ``gender_accuracy`` (None without a known gender). Limits are
        unique.
    """
    known = observations.take(observations.age_labelled)
    width_years = known.age_high - known.age_low
    ordered = np.sort(width_years)
    if not len(known):
        return []
    limits = {float(ordered[max(0, round(share * len(known)) - 1)]) for share in ANSWERED_SHARES}
    return [_row(known.take(width_years <= limit), len(known), limit) for limit in sorted(limits, reverse=True)]


def _row(answered: Observations, total: int, limit: float) -> dict[str, Any]:
    values = MetricSums.of(answered).values()
    return {
        "answered": round(len(answered) / total, 4),
        "n": len(answered),
        "width_limit_years": round(limit, 4),
        **{name: _rounded(values[name]) for name in ("age_mae_years", "interval_coverage", "gender_accuracy")},
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
