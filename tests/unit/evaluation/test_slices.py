from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from agegender.evaluation.calibration import gender_calibration_error
from agegender.evaluation.metrics import METRICS, RANGE_METRICS, MetricSums, Observations, bucketed
from agegender.evaluation.slices import (
    SCHEMA,
    SLICINGS,
    age_assurance,
    bounded_metrics,
    by_source,
    confusion,
    slice_rows,
)
from agegender.schema import AGE_GROUPS, RACES, age_group
from tests.support.observed import of_exact_ages, of_ranges


def test_every_metric_lies_within_its_bounds(observations: Observations) -> None:
    metrics = bounded_metrics(observations, rounds=200, seed=0)
    assert set(metrics) == {*METRICS, *RANGE_METRICS, "age_median_error_years"}
    for name in (*METRICS, "age_median_error_years"):
        bounded = metrics[name]
        low, value, high = (bounded[end] for end in ("low", "value", "high"))
        assert low is not None and value is not None and high is not None
        assert low <= value <= high


def test_slices_agree_with_a_group_by(observations: Observations) -> None:
    rows = pd.DataFrame(slice_rows(observations, rounds=100, seed=0))
    frame = pd.DataFrame(
        {
            "age": observations.age_true,
            "gender": observations.gender_true,
            "error": observations.age_pred - observations.age_true,
        }
    )
    frame = frame[frame.age.notna()]
    frame["age_group"] = [age_group(age) for age in frame.age]
    by_group = frame.groupby("age_group").error
    ages = rows[rows.slice == "age_group"].set_index("age_group")
    pd.testing.assert_series_equal(ages.n, by_group.size(), check_names=False, check_like=True)
    for group, bias in by_group.mean().items():
        assert ages.age_bias_years[str(group)] == pytest.approx(bias, abs=1e-3)
    crossed = rows[rows.slice == "age_group x gender"]
    assert crossed.n.sum() == (frame.gender >= 0).sum()
    assert set(crossed.gender) == {"male", "female"}


def test_small_crossings_of_three_are_left_out(observations: Observations) -> None:
    rows = slice_rows(observations.take(np.arange(900)), rounds=100, seed=0)
    crossed = [row["n"] for row in rows if row["slice"] == "age_group x gender x race"]
    assert all(n >= SLICINGS["age_group", "gender", "race"] for n in crossed)
    assert {row["race"] for row in rows if row["slice"] == "race"} == {"white", "black", "asian", "indian", "other"}


def test_confusion_counts_each_known_age_once(observations: Observations) -> None:
    table = confusion(observations)
    assert table.shape == (len(AGE_GROUPS), len(AGE_GROUPS))
    assert table.sum() == MetricSums.of(observations).n_age
    known = observations.take(observations.age_labelled)
    twenties = [age_group(age) for age in known.age_pred[(known.age_true >= 21) & (known.age_true <= 30)]]
    assert table[AGE_GROUPS.index("21-30"), AGE_GROUPS.index("11-20")] == twenties.count("11-20")


def test_age_assurance_counts_both_errors() -> None:
    ages = np.array([13, 15, 17, 17.5, 12, 18, 30, 40, np.nan], dtype=np.float32)
    estimates = np.array([19, 26, 17, 18, 30, 17, 24, 40, 1], dtype=np.float32)
    empty = np.full(9, -1, dtype=np.int8)
    result = age_assurance(of_exact_ages(ages, empty, empty, estimates, estimates, estimates, estimates))
    assert result["minors_13_17"]["n"] == 4
    assert result["minors_13_17"]["estimated_18_or_over"]["value"] == 0.75
    assert result["minors_13_17"]["estimated_25_or_over"]["value"] == 0.25
    assert result["adults"]["n"] == 3
    assert result["adults"]["estimated_under_18"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert result["adults"]["estimated_under_25"]["value"] == pytest.approx(2 / 3, abs=1e-4)


def test_age_assurance_without_anybody_has_no_value(observations: Observations) -> None:
    result = age_assurance(observations.take(observations.age_true < 10))
    assert result["adults"] == {
        "n": 0,
        "estimated_under_18": {"value": None, "low": None, "high": None},
        "estimated_under_25": {"value": None, "low": None, "high": None},
    }


def test_a_range_is_sliced_by_itself_and_by_the_group_that_holds_it() -> None:
    ranges = [(3.0, 9.0)] * 4 + [(20.0, 29.0)] * 3 + [(70.0, 120.0)] * 2
    seen = bucketed(of_ranges(ranges, [3, 5, 12, 40, 20, 29.9, 31, 71, 60]))
    rows = slice_rows(seen, rounds=10, seed=0)
    by_range = {row["age_range"]: row for row in rows if row["slice"] == "age_range"}
    assert {name: (row["n"], row["n_age"], row["n_age_range"]) for name, row in by_range.items()} == {
        "3-9": (4, 0, 4),
        "20-29": (3, 0, 3),
        "70+": (2, 0, 2),
    }
    assert by_range["20-29"]["age_in_range"] == pytest.approx(2 / 3, abs=1e-4)
    assert by_range["20-29"]["age_mae_years"] is None
    assert [row["age_group"] for row in rows if row["slice"] == "age_group"] == ["1-10"]
    assert pa.Table.from_pylist(rows, SCHEMA).num_rows == len(rows)


def test_groups_carry_the_names_of_the_set(observations: Observations) -> None:
    names = ["East Asian", "White", "Latino_Hispanic", "Black", "Indian"]
    rows = slice_rows(observations, rounds=10, seed=0, races=names)
    assert {row["race"]: row["n"] for row in rows if row["slice"] == "race"} == {
        name: int((observations.race == code).sum()) for code, name in enumerate(names)
    }


def test_age_assurance_counts_ranges_that_are_on_one_side() -> None:
    result = age_assurance(of_ranges([(13, 17), (10, 19), (20, 29), (15, 18)], [19, 30, 17, 30]))
    assert (result["minors_13_17"]["n"], result["adults"]["n"]) == (1, 1)
    assert result["minors_13_17"]["estimated_18_or_over"]["value"] == 1.0
    assert result["adults"]["estimated_under_18"]["value"] == 1.0


def test_several_sources_are_sliced_by_and_one_is_not(observations: Observations) -> None:
    source = (np.arange(len(observations)) % 3 == 0).astype(np.int16)
    seen = replace(observations, source=source)
    rows = [row for row in slice_rows(seen, 10, 0, sources=["chips", "photographs"]) if row["slice"] == "source"]
    assert [(row["source"], row["n"]) for row in rows] == [
        ("chips", (source == 0).sum()),
        ("photographs", source.sum()),
    ]
    by_name = by_source(seen, 10, 0, ["chips", "photographs"])
    assert [by_name[row["source"]]["gender_accuracy"]["value"] for row in rows] == [
        row["gender_accuracy"] for row in rows
    ]
    error = gender_calibration_error(seen.take(source == 1))
    assert rows[1]["gender_calibration_error"] == by_name["photographs"]["gender_calibration_error"] == error
    assert not [row for row in slice_rows(seen, 10, 0, sources=["chips"]) if row["slice"] == "source"]


def test_every_cell_of_race_and_age_with_a_hundred_images_is_there(observations: Observations) -> None:
    many = Observations.joined([observations] * 3)
    rows = [row for row in slice_rows(many, 10, 0) if row["slice"] == "age_group x race"]
    known = many.take(many.age_labelled & (many.race >= 0))
    counts = Counter(zip(map(age_group, known.age_true.tolist()), known.race.tolist(), strict=True))
    large = {(group, RACES[race]): n for (group, race), n in counts.items() if n >= 100}
    assert 0 < len(large) < len(counts)
    assert {(row["age_group"], row["race"]): row["n"] for row in rows} == large


def test_ranges_are_crossed_with_race() -> None:
    seen = of_ranges([(20.0, 29.0)] * 150 + [(30.0, 39.0)] * 90, [25.0] * 240)
    seen = replace(seen, race=np.zeros(240, np.int8))
    rows = [row for row in slice_rows(seen, 10, 0) if row["slice"] == "age_range x race"]
    assert [(row["age_range"], row["race"], row["n"]) for row in rows] == [("20-29", "white", 150)]


def test_the_probability_of_a_gender_is_judged_by_estimates_and_not_within_one_true_gender(
    observations: Observations,
) -> None:
    rows = slice_rows(observations, 10, 0)
    assert all(row["gender_calibration_error"] is None for row in rows if row["gender"] is not None)
    for by in ("race", "estimated_gender", "estimated_age_group"):
        errors = [row["gender_calibration_error"] for row in rows if row["slice"] == by]
        assert errors, by
        assert all(error is not None for error in errors), by
