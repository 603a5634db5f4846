from dataclasses import replace

import numpy as np
import pytest

from agegender.evaluation.metrics import Observations
from agegender.evaluation.selective import selective_prediction


def test_error_falls_where_the_width_knows_it(seen: Observations) -> None:
    half = ((1 + np.abs(seen.age_pred - np.nan_to_num(seen.age_true, nan=50.0))) / 2).astype(np.float32)
    rows = selective_prediction(replace(seen, age_low=seen.age_pred - half, age_high=seen.age_pred + half))
    assert rows[0]["answered"] == 1.0 and rows[0]["n"] == np.count_nonzero(seen.age_labelled)
    errors = [row["age_mae_years"] for row in rows]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 3
    assert rows[-1]["answered"] == pytest.approx(0.1, abs=0.01)


def test_a_row_is_what_its_width_as_a_limit_gives(seen: Observations) -> None:
    rng = np.random.default_rng(2)
    seen = replace(seen, age_high=seen.age_low + rng.uniform(5, 30, len(seen)).astype(np.float32))
    row = selective_prediction(seen)[6]
    inside = seen.age_labelled & (seen.age_high - seen.age_low <= row["width_limit_years"] + 1e-3)
    assert row["n"] == np.count_nonzero(inside)
    error = np.abs(seen.age_pred - seen.age_true)[inside]
    assert row["age_mae_years"] == pytest.approx(error.mean(), abs=1e-3)


def test_equal_widths_are_answered_together_and_nothing_labelled_is_nothing(seen: Observations) -> None:
    same = replace(seen, age_low=np.zeros_like(seen.age_low), age_high=np.full_like(seen.age_high, 20.0))
    rows = selective_prediction(same)
    assert len(rows) == 1 and rows[0]["answered"] == 1.0
    assert selective_prediction(seen.take(~seen.age_labelled)) == []
