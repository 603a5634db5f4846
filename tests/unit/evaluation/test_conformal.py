import numpy as np
import pytest

from agegender.evaluation.conformal import (
    age_bands,
    calibration_ages,
    conformal_quantile,
    fit_calibration,
    gender_temperature,
    interval_factors,
    rounded_age,
)


def draw(seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ages whose errors grow with age and lean to the low side, as real ones do; spreads that know half of it."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(1, 91, n).astype(np.float64)
    hard = rng.uniform(0.5, 2.0, n)
    estimate = np.clip(truth + hard * rng.normal(0, 1 + truth / 8) - truth / 20, 0, 120)
    return truth, estimate, 3 * hard


def covered(drawn: tuple[np.ndarray, np.ndarray, np.ndarray], factors: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    truth, estimate, spread = drawn
    years = rounded_age(estimate)
    inside: np.ndarray = (truth >= estimate - factors[0][years] * spread) & (
        truth <= estimate + factors[1][years] * spread
    )
    return inside


def test_the_interval_holds_its_coverage_on_new_faces_over_all_and_by_band() -> None:
    factors = interval_factors(*draw(0, 4000))
    drawn = draw(1, 40_000)
    inside, estimate = covered(drawn, factors), drawn[1]
    assert inside.mean() == pytest.approx(0.9, abs=0.015)
    for low in range(5, 85, 10):
        band = (estimate >= low) & (estimate < low + 10)
        assert 0.84 < inside[band].mean() < 0.96
    assert (factors[0] + factors[1])[75] > 2 * (factors[0] + factors[1])[10]


def test_a_face_that_the_network_is_unsure_of_gets_the_same_coverage() -> None:
    drawn, learnt = draw(8, 40_000), draw(7, 4000)
    unsure = drawn[2] > 5
    assert 0.85 < covered(drawn, interval_factors(*learnt))[unsure].mean() < 0.95
    blind = covered((*drawn[:2], np.ones(40_000)), interval_factors(*learnt[:2], np.ones(4000)))
    assert blind[unsure].mean() < 0.85, "which intervals that know age alone do not give it"


def test_neighbouring_years_differ_little() -> None:
    for factors in interval_factors(*draw(2, 4000)):
        assert np.abs(np.diff(factors)).max() < 3


def test_conformal_quantile_is_the_finite_sample_rank() -> None:
    scores = np.arange(1.0, 100.0)
    assert conformal_quantile(scores, 0.9) == 90
    assert conformal_quantile(np.array([3.0, 1.0, 2.0]), 0.9) == 3


@pytest.mark.parametrize("n", [1, 5, 30])
def test_few_faces_give_a_finite_interval_that_holds_them_nearly_all(n: int) -> None:
    drawn = draw(3, n)
    inside = covered(drawn, interval_factors(*drawn))
    assert inside.mean() >= 0.9


def test_without_labels_nothing_is_claimed() -> None:
    calibration = fit_calibration([np.nan, np.nan], [20.0, 30.0], [5.0, 5.0], [-1, -1], [0.3, 2.0])
    assert calibration.gender_temperature == 1
    assert min(calibration.age_low_factors + calibration.age_high_factors) == 120


def test_unlabelled_rows_change_nothing() -> None:
    truth, estimate, spread = draw(4, 500)
    with_gaps = interval_factors(np.append(truth, np.nan), np.append(estimate, 50.0), np.append(spread, 1.0))
    np.testing.assert_array_equal(interval_factors(truth, estimate, spread), with_gaps)


def test_bands_are_ordered_and_big_enough() -> None:
    _, estimate, _ = draw(5, 1234)
    bands = age_bands(estimate)
    assert np.bincount(bands).min() >= 100
    assert np.all(np.diff(bands[np.argsort(estimate)]) >= 0)
    assert set(age_bands(estimate[:50])) == {0}


def test_the_temperature_is_found_again() -> None:
    rng = np.random.default_rng(6)
    logit = rng.normal(0, 2, 20_000)
    gender = (rng.random(20_000) < 1 / (1 + np.exp(-logit))).astype(int)
    assert gender_temperature(gender, logit * 2.5) == pytest.approx(2.5, rel=0.05)
    assert gender_temperature(np.append(gender, -1), np.append(logit * 0.5, 99.0)) == pytest.approx(0.5, rel=0.05)


def test_a_small_set_without_a_mistake_does_not_claim_certainty() -> None:
    logit = np.array([-2.0, -3.0, 2.5, 3.0] * 3)
    temperature = gender_temperature((logit > 0).astype(int), logit)
    assert 0.5 < temperature < 3


def test_ranges_calibrate_only_where_exact_ages_are_few() -> None:
    ages = np.array([30.0, np.nan, np.nan, np.nan, np.nan])
    ranges = np.array([[np.nan] * 2, [20, 29], [20, 29], [20, 29], [np.nan] * 2], dtype=np.float32)
    estimates = np.array([31.0, 25.0, 15.0, 35.0, 40.0])
    np.testing.assert_allclose(calibration_ages(ages, ranges, estimates), [30, 25, 20, 30, np.nan], atol=1e-4)
    np.testing.assert_array_equal(calibration_ages(ages, None, estimates), ages)
    many = np.tile(ages, 100)
    np.testing.assert_array_equal(calibration_ages(many, np.tile(ranges, (100, 1)), np.tile(estimates, 100)), many)
