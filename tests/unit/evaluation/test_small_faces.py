import numpy as np
import pytest

from agegender.artifact import Calibration, FaceSizeCalibration
from agegender.evaluation.small_faces import SizedEstimates, fit_by_face_size, interval
from agegender.scoring.predictions import Predictions, for_face_sizes

SHARPNESS = {12: 0.3, 24: 0.6, 48: 0.95}
"""Share of the truth that a face of a size shows."""


def seen(face_px: float, seed: int, n: int = 4000) -> SizedEstimates:
    """A model that sees less in smaller faces, does not know it, and then takes some men for women."""
    rng = np.random.default_rng((seed, int(face_px)))
    sharp = SHARPNESS[int(face_px)]
    age = rng.integers(10, 80, n).astype(np.float64)
    estimate = np.clip(age + rng.normal(-8 * (1 - sharp), 4 / sharp, n), 0, 120)
    gender = rng.integers(0, 2, n)
    logit = 8 * (sharp * (2 * gender - 1) + rng.normal(0, 0.5, n) + 0.5 * (1 - sharp))
    return SizedEstimates(age, estimate, np.maximum(estimate - 7, 0), estimate + 7, gender, logit)


def predictions(estimates: SizedEstimates) -> Predictions:
    logit = np.asarray(estimates.gender_logit, dtype=np.float64)
    columns = np.array(
        [estimates.age_pred, estimates.age_low, estimates.age_high, 1 / (1 + np.exp(-logit))], np.float32
    )
    return Predictions(columns[0], columns[1], columns[2], columns[3], None)


def calibrated_error(female: np.ndarray, gender: np.ndarray) -> float:
    order = np.argsort(female)
    return float(np.mean([abs(female[p].mean() - gender[p].mean()) for p in np.array_split(order, 15)]))


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration(by_face_size=fit_by_face_size({px: seen(px, 0) for px in SHARPNESS}, 100.0))


@pytest.mark.parametrize("face_px", SHARPNESS)
def test_new_small_faces_get_the_coverage_and_the_probability_that_is_meant(
    calibration: Calibration, face_px: int
) -> None:
    fresh = seen(face_px, 1)
    sized = for_face_sizes(predictions(fresh), np.full(4000, face_px), calibration)
    truth = np.asarray(fresh.age_true)
    inside = (truth >= sized.age_low_years) & (truth <= sized.age_high_years)
    assert inside.mean() == pytest.approx(0.9, abs=0.02)
    assert calibrated_error(sized.female_probability, np.asarray(fresh.gender_true)) < 0.03
    before = predictions(fresh)
    np.testing.assert_array_equal(sized.age_years, before.age_years)
    if face_px == 12:
        blind = (truth >= before.age_low_years) & (truth <= before.age_high_years)
        assert blind.mean() < 0.75, "what it would be without"
        assert calibrated_error(before.female_probability, np.asarray(fresh.gender_true)) > 0.1


def test_intervals_widen_and_certainty_falls_as_pixels_do(calibration: Calibration) -> None:
    sizes_px = np.geomspace(8, 200, 60)
    age, low, high, female = np.full((4, 60), [[30], [23], [37], [0.9]], np.float32)
    same = Predictions(age, low, high, female, None)
    sized = for_face_sizes(same, sizes_px, calibration)
    assert np.all(np.diff(sized.age_high_years - sized.age_low_years) <= 0)
    width = sized.age_high_years - sized.age_low_years
    assert width[0] > 2 * width[-1]
    table = calibration.by_face_size
    assert [row.face_px for row in table] == [12, 24, 48, 100]
    assert table[0].gender_temperature > table[2].gender_temperature >= 1
    assert table[0].gender_shift < -0.3, "it had taken men for women"


def test_large_faces_and_models_without_a_table_keep_what_was_said_to_the_bit(calibration: Calibration) -> None:
    estimates = predictions(seen(48, 2))
    for sizes, known in ((np.full(4000, 100.0), calibration), (np.full(4000, 12.0), Calibration())):
        assert for_face_sizes(estimates, sizes, known) is estimates
    mixed = for_face_sizes(estimates, np.where(np.arange(4000) % 2, 20.0, 300.0), calibration)
    for name in ("age_low_years", "age_high_years", "female_probability"):
        before, after = getattr(estimates, name), getattr(mixed, name)
        np.testing.assert_array_equal(before[::2], after[::2])
        assert np.any(before[1::2] != after[1::2]) and after.dtype == np.float32


def test_the_ends_of_life_and_certainty_are_kept() -> None:
    wide = Calibration(
        by_face_size=[
            FaceSizeCalibration(face_px=20, age_low_factor=9, age_high_factor=9, gender_shift=1, gender_temperature=2),
            FaceSizeCalibration(face_px=100),
        ]
    )
    age, low, high = np.full((3, 2), [[40], [20], [60]], np.float32)
    sure = Predictions(age, low, high, np.array([0, 1], np.float32), None)
    sized = for_face_sizes(sure, [5, 5], wide)
    assert sized.age_low_years.tolist() == [0, 0] and sized.age_high_years.tolist() == [120, 120]
    assert sized.female_probability.tolist() == [0, 1]


def test_few_or_no_labels_claim_nothing() -> None:
    few = seen(12, 3, 50)
    (row, _) = fit_by_face_size({12: few}, 100.0)
    assert row.gender_shift == 0 and row.gender_temperature == 1 and row.age_high_factor > 1
    nothing = SizedEstimates(np.full(9, np.nan), [30.0] * 9, [20.0] * 9, [40.0] * 9, [-1] * 9, [1.0] * 9)
    assert fit_by_face_size({12: nothing}, 100.0)[0] == FaceSizeCalibration(face_px=12)
    assert fit_by_face_size({}, 10.0) == []


def test_the_interval_of_whole_crops_is_that_of_the_graph() -> None:
    factors = np.arange(121) / 10
    calibration = Calibration(age_low_factors=factors.tolist(), age_high_factors=(2 * factors).tolist())
    low, high = interval(calibration, [10.0, 49.5, 100.0], [2.0, 1.0, 30.0])
    assert low.tolist() == [8.0, 44.5, 0.0] and high.tolist() == [14.0, 59.5, 120.0]
