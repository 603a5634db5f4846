from dataclasses import replace

import numpy as np
import pytest

from agegender.evaluation.metrics import Observations
from agegender.evaluation.selective import selective_prediction


def test_error_falls_where_the_width_knows_it(observations: Observations) -> None:
    half = ((1 + np.abs(observations.age_pred - np.nan_to_num(observations.age_true, nan=50.0))) / 2).astype(np.float32)
    rows = selective_prediction(
        replace(observations, age_low=observations.age_pred - half, age_high=observations.age_pred + half)
    )
    assert rows[0]["answered"] == 1.0 and rows[0]["n"] == np.count_nonzero(observations.age_labelled)
    errors = [row["age_mae_years"] for row in rows]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 3
    assert rows[-1]["answered"] == pytest.approx(0.1, abs=0.01)


def test_a_row_is_what_its_width_as_a_limit_gives(observations: Observations) -> None:
    rng = np.random.default_rng(2)
    observations = replace(
        observations, age_high=observations.age_low + rng.uniform(5, 30, len(observations)).astype(np.float32)
    )
    row = selective_prediction(observations)[6]
    inside = observations.age_labelled & (
        observations.age_high - observations.age_low <= row["width_limit_years"] + 1e-3
    )
    assert row["n"] == np.count_nonzero(inside)
    error = np.abs(observations.age_pred - observations.age_true)[inside]
    assert row["age_mae_years"] == pytest.approx(error.mean(), abs=1e-3)


def test_equal_widths_are_answered_together_and_nothing_labelled_is_nothing(observations: Observations) -> None:
    same = replace(
        observations, age_low=np.zeros_like(observations.age_low), age_high=np.full_like(observations.age_high, 20.0)
    )
    rows = selective_prediction(same)
    assert len(rows) == 1 and rows[0]["answered"] == 1.0
    assert selective_prediction(observations.take(~observations.age_labelled)) == []
