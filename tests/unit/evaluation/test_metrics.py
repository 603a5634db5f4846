import numpy as np
import pytest
from numpy.testing import assert_allclose

from agegender.evaluation.metrics import (
    METRICS,
    RANGE_METRICS,
    MetricSums,
    Observations,
    bucketed,
    error_histogram,
    median_error_years,
)
from tests.support.observed import of_ranges


def by_hand(observations: Observations) -> dict[str, float]:
    """Each metric over whole arrays, another way."""
    age = ~np.isnan(observations.age_true)
    error = observations.age_pred[age].astype(float) - observations.age_true[age]
    gender = observations.gender_true != -1
    named = np.where(observations.female_probability[gender] < 0.5, 0, 1)
    low, high = observations.age_low[age].astype(float), observations.age_high[age].astype(float)
    return {
        "age_mae_years": np.mean(abs(error)),
        "age_bias_years": np.mean(error),
        "age_within_5_years": np.mean([abs(value) <= 5 for value in error]),
        "gender_accuracy": np.mean(named == observations.gender_true[gender]),
        "interval_coverage": np.mean(~((observations.age_true[age] < low) | (observations.age_true[age] > high))),
        "interval_width_years": np.mean(high - low),
    }


def test_metrics_are_the_means_over_the_labelled_images(observations: Observations) -> None:
    values = MetricSums.of(observations).values()
    expected = by_hand(observations)
    assert set(METRICS) == set(expected)
    assert values == {name: values[name] for name in METRICS} | dict.fromkeys(RANGE_METRICS)
    for name in METRICS:
        assert values[name] == pytest.approx(expected[name], rel=1e-6)


@pytest.mark.parametrize("cuts", [(), (1,), (700, 701, 2999), (0, 3000)])
def test_parts_merge_to_the_whole(observations: Observations, cuts: tuple[int, ...]) -> None:
    parts = [MetricSums.of(observations.take(index)) for index in np.split(np.arange(len(observations)), cuts)]
    merged = sum(parts[1:], start=parts[0])
    whole = MetricSums.of(observations)
    assert merged.images == whole.images
    assert (merged.n_age, merged.n_gender) == (whole.n_age, whole.n_gender)
    assert_allclose(merged.sums, whole.sums, rtol=1e-9)
    assert merged.n_age == np.count_nonzero(~np.isnan(observations.age_true)) < len(observations)


def test_a_metric_without_a_label_has_no_value(observations: Observations) -> None:
    unlabelled = observations.take(~observations.age_labelled)
    values = MetricSums.of(unlabelled).values()
    assert values["age_mae_years"] is None
    assert values["interval_width_years"] is None
    assert values["gender_accuracy"] is not None
    assert median_error_years(unlabelled) is None


def test_joined_parts_are_the_whole(observations: Observations) -> None:
    parts = [observations.take(index) for index in np.array_split(np.arange(len(observations)), 7)]
    np.testing.assert_array_equal(Observations.joined(parts).age_pred, observations.age_pred)


def test_the_histogram_of_errors_loses_nobody(observations: Observations) -> None:
    counts, edges = error_histogram(observations, largest_years=10)
    error = (observations.age_pred - observations.age_true)[~np.isnan(observations.age_true)]
    assert counts.sum() == error.size
    assert counts[-1] == (error > 9.5).sum()
    assert len(edges) == len(counts) + 1


BUCKETS = [(0.0, 2.0), (3.0, 9.0), (10.0, 19.0), (20.0, 29.0), (70.0, 120.0)]


def test_a_range_is_right_until_the_birthday_after_it() -> None:
    inside = MetricSums.of(of_ranges([(20, 29)] * 4, [20.0, 29.99, 30.0, 19.99]))
    assert inside.values()["age_in_range"] == 0.5
    assert inside.values()["age_mae_to_range_years"] == pytest.approx(0.01 / 4, abs=1e-4)
    assert (inside.n_age, inside.n_age_range) == (0, 4)
    assert inside.values()["age_mae_years"] is None and inside.values()["age_bias_years"] is None


def test_the_distance_to_a_range_is_to_its_nearest_end() -> None:
    values = MetricSums.of(of_ranges([(20, 29), (20, 29), (70, 120)], [15, 34, 90])).values()
    assert values["age_mae_to_range_years"] == pytest.approx((5 + 4 + 0) / 3, abs=1e-5)
    assert values["interval_width_years"] == 4


def test_an_interval_meets_a_range_that_it_has_a_moment_of() -> None:
    seen = of_ranges([(20, 29)] * 4, [18.0, 17.9, 31.9, 32.0], width_years=4)
    assert MetricSums.of(seen).sums[-1] == 2


def test_buckets_of_a_set_that_tiles() -> None:
    seen = bucketed(of_ranges(BUCKETS, [2.9, 10.0, 9.9, 30.0, 10.0]))
    assert seen.bucket_steps.tolist() == [0, 1, 1, 0, 2]
    values = MetricSums.of(seen).values()
    assert (values["age_bucket_accuracy"], values["age_within_one_bucket"]) == (0.4, 0.8)
    # 20-29 and 70+ leave a gap, which is divided at 50
    assert bucketed(of_ranges(BUCKETS, [1, 5, 15, 51, 49])).bucket_steps.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("ranges", [[(20, 29), (25, 32)], [(20, 29), (29, 32)], [(20, 29), (20, 29)]])
def test_ranges_that_overlap_are_no_buckets(ranges: list[tuple[float, float]]) -> None:
    values = MetricSums.of(bucketed(of_ranges(ranges, [25, 28]))).values()
    assert values["age_bucket_accuracy"] is None and values["age_within_one_bucket"] is None
    assert values["age_in_range"] == (0.5 if ranges[1][0] == 29 else 1.0)


def test_exact_and_ranged_ages_are_measured_apart(observations: Observations) -> None:
    ranged = of_ranges([(20.0, 29.0)] * 10, [40.0] * 10)
    both = MetricSums.of(Observations.joined([observations, ranged]))
    exact = MetricSums.of(observations)
    assert (both.n_age, both.n_age_range) == (exact.n_age, 10)
    for name in ("age_mae_years", "age_bias_years", "age_within_5_years", "interval_coverage"):
        assert both.values()[name] == exact.values()[name]
    assert both.values()["age_in_range"] == 0
