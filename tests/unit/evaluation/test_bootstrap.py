import numpy as np
import pytest

from agegender.evaluation import bootstrap
from agegender.evaluation.bootstrap import mean_bounds, median_bounds, share_bounds


def test_bounds_of_a_mean_are_those_of_the_normal_law() -> None:
    values = np.random.default_rng(0).normal(10, 3, (2000, 1))
    low, high = mean_bounds(values, 2000, seed=1)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low[0] == pytest.approx(values.mean() - half, abs=0.02)
    assert high[0] == pytest.approx(values.mean() + half, abs=0.02)


def test_missing_cells_have_no_part() -> None:
    values = np.random.default_rng(0).normal(10, 3, (1000, 3))
    values[500:, 1] = np.nan
    values[:, 2] = np.nan
    low, high = mean_bounds(values, 500, seed=1)
    assert low[1] < values[:500, 1].mean() < high[1]
    assert high[1] - low[1] > 1.2 * (high[0] - low[0])
    assert np.isnan(low[2])
    assert np.isnan(high[2])


def test_a_seed_gives_the_same_bounds_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(10, 3, (100, 2))
    whole = mean_bounds(values, 300, seed=5)
    monkeypatch.setattr(bootstrap, "_CHUNK_CELLS", 700)
    np.testing.assert_allclose(mean_bounds(values, 300, seed=5), whole)
    assert not np.array_equal(mean_bounds(values, 300, seed=6), whole)


def test_bounds_of_a_median_match_plain_resampling() -> None:
    rng = np.random.default_rng(2)
    values = rng.exponential(4, 501)
    plain = [np.median(rng.choice(values, values.size)) for _ in range(3000)]
    low, high = median_bounds(values, 3000, seed=3)
    assert low == pytest.approx(np.percentile(plain, 2.5), abs=0.15)
    assert high == pytest.approx(np.percentile(plain, 97.5), abs=0.15)


def test_one_image_and_none() -> None:
    low, high = mean_bounds(np.array([[4.0]]), 100, seed=0)
    assert (low[0], high[0]) == (4, 4)
    assert np.isnan(mean_bounds(np.empty((0, 1)), 100, seed=0)[0][0])


def test_bounds_of_a_share() -> None:
    assert share_bounds(0, 50) == pytest.approx((0.0, 0.0713), abs=1e-3)
    assert share_bounds(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-3)  # Newcombe (1998), table I
    assert share_bounds(10, 10)[1] == pytest.approx(1)
