import numpy as np
import pytest
from numpy.testing import assert_allclose

from agegender.evaluation.metrics import METRICS, MetricSums, Observations, error_histogram, median_error_years


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
    assert set(values) == set(METRICS) == set(expected)
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
