from dataclasses import replace

import numpy as np
import pytest

from agegender.evaluation.calibration import expected_calibration_error, interval_by_group, reliability
from agegender.evaluation.metrics import Observations
from tests.support.observed import of_ranges


def with_probability(observations: Observations, stated: np.ndarray, true: np.ndarray) -> Observations:
    gender = (np.random.default_rng(1).random(true.size) < true).astype(np.int8)
    return replace(observations, female_probability=stated.astype(np.float32), gender_true=gender)


def test_an_honest_probability_has_a_small_error(observations: Observations) -> None:
    stated = np.random.default_rng(0).random(len(observations))
    honest = expected_calibration_error(reliability(with_probability(observations, stated, stated)))
    boastful = np.where(stated > 0.5, 0.99, 0.01)
    assert honest is not None
    assert honest < 0.05
    assert expected_calibration_error(reliability(with_probability(observations, boastful, stated))) == pytest.approx(
        0.24, abs=0.03
    )


def test_bins_hold_equally_many_labelled_images(observations: Observations) -> None:
    rows = reliability(observations)
    counts = [row["n"] for row in rows]
    assert len(rows) == 15
    assert sum(counts) == np.count_nonzero(observations.gender_true >= 0)
    assert max(counts) - min(counts) <= 1
    assert [row["stated"] for row in rows] == sorted(row["stated"] for row in rows)
    assert all(row["low"] <= row["observed"] <= row["high"] for row in rows)


def test_without_labels_there_is_nothing_to_say(observations: Observations) -> None:
    rows = reliability(observations.take(observations.gender_true < 0))
    assert rows == []
    assert expected_calibration_error(rows) is None


@pytest.mark.parametrize("by", ["estimated", "true"])
def test_coverage_by_group_adds_up(observations: Observations, by: str) -> None:
    rows = interval_by_group(observations, by)
    known = observations.take(observations.age_labelled)
    inside = (known.age_true >= known.age_low) & (known.age_true <= known.age_high)
    assert sum(row["n"] for row in rows) == len(known)
    assert sum(row["n"] * row["coverage"] for row in rows) == pytest.approx(inside.sum(), abs=0.5)
    assert all(row["width_years"] == pytest.approx(14, abs=1e-3) for row in rows)


def test_an_interval_covers_a_range_if_they_meet() -> None:
    seen = of_ranges([(20, 29), (20, 29), (20, 29), (40, 49)], [31.5, 33, 25, 60], width_years=4)
    rows = interval_by_group(seen, "estimated_of_ranges")
    assert [(row["age_group"], row["n"], row["coverage"]) for row in rows] == [
        ("21-30", 1, 1.0),
        ("31-40", 2, 0.5),
        ("51-60", 1, 0.0),
    ]
    assert interval_by_group(seen, "estimated") == []
