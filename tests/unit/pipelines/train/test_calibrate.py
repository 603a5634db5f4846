import numpy as np
import torch

from agegender.artifact import NetworkConfig
from agegender.data.synthetic import draw_face
from agegender.evaluation.conformal import fit_calibration
from agegender.model import trainer
from agegender.model.batches import Samples
from agegender.model.network import build_network
from agegender.pipelines.train import calibrate as module
from agegender.pipelines.train.calibrate import calibrate
from agegender.recipe import Recipe

CPU = torch.device("cpu")


def test_whole_crops_are_calibrated_as_before_and_each_size_that_is_smaller_beside_them() -> None:
    rng = np.random.default_rng(0)
    ages, genders = rng.uniform(1, 90, 60).astype(np.float32), rng.integers(0, 2, 60).astype(np.int64)
    drawn = np.stack(
        [draw_face(float(age), int(g), i, 48) for i, (age, g) in enumerate(zip(ages, genders, strict=True))]
    )
    ages[0], genders[0] = np.nan, -1
    val = Samples(drawn, np.arange(60), ages, genders)
    torch.manual_seed(0)
    network = build_network(NetworkConfig(backbone="notebook", age_head="distribution", image_size_px=32)).eval()
    calibration, estimates = calibrate(network, val, Recipe(), CPU)
    again, _ = trainer.evaluate(network, val, np.arange(60), Recipe(), CPU)
    np.testing.assert_array_equal(estimates.age_years, again.age_years)
    plain = fit_calibration(ages, again.age_years, again.age_spread_years, genders, again.gender_logit)
    assert calibration.model_copy(update={"by_face_size": []}) == plain
    # the network takes 32 px, so a face of 26.9 px has all of its pixels
    assert [round(row.face_px, 1) for row in calibration.by_face_size] == [12, 16, 20, 26.9]
    assert calibration.by_face_size[-1].age_low_factor == 1


def test_batches_of_reduced_images_change_nothing(monkeypatch) -> None:
    drawn = np.stack([draw_face(float(age), age % 2, age, 32) for age in range(10, 40)])
    val = Samples(drawn, np.arange(30), np.arange(10, 40).astype(np.float32), np.arange(30) % 2)
    network = build_network(NetworkConfig(backbone="notebook", age_head="scalar", image_size_px=32)).eval()
    at_once, _ = calibrate(network, val, Recipe(), CPU)
    monkeypatch.setattr(module, "BATCH_IMAGES", 7)
    in_parts, _ = calibrate(network, val, Recipe(), CPU)
    for one, other in zip(at_once.by_face_size, in_parts.by_face_size, strict=True):
        assert abs(one.age_high_factor - other.age_high_factor) < 0.01
