"""Observations for tests of metrics."""

from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from agegender.evaluation.metrics import Observations


def of_exact_ages(age_true: npt.NDArray[np.float32], *others: npt.NDArray[Any]) -> Observations:
    """Images without a range of ages; ``others`` are the columns after the true age, up to the probability of female."""
    none = np.full(age_true.size, np.nan, dtype=np.float32)
    steps = np.full(age_true.size, -1, dtype=np.int8)
    columns = dict(zip((field.name for field in fields(Observations)), (age_true, *others), strict=False))
    return Observations(**columns, range_low=none, range_high=none, bucket_steps=steps, source=steps.astype(np.int16))


def of_ranges(ranges: list[tuple[float, float]], age_pred: list[float], width_years: float = 4) -> Observations:
    """Images whose ages are labelled as ranges, without gender and race; buckets are not set."""
    count = len(ranges)
    low, high = np.array(ranges, dtype=np.float32).reshape(-1, 2).T
    estimate, unknown = np.array(age_pred, dtype=np.float32), np.full(count, -1, dtype=np.int8)
    ends = (estimate - width_years / 2, estimate + width_years / 2)
    female = np.full(count, 0.5, dtype=np.float32)
    none = np.full(count, np.nan, dtype=np.float32)
    return Observations(none, unknown, unknown, estimate, *ends, female, low, high, unknown, unknown.astype(np.int16))
