import numpy as np
import torch

from agegender.artifact import NetworkConfig
from agegender.model.batches import Samples, load_batch
from agegender.model.distillation import SOFT_TARGET_COLUMNS, teacher_predict
from agegender.model.network import FaceNetwork, build_network

CPU = torch.device("cpu")


def teacher(seed: int, side: int) -> FaceNetwork:
    torch.manual_seed(seed)
    network = build_network(NetworkConfig(backbone="compact", age_head="distribution", image_size_px=side))
    torch.nn.init.normal_(network.age_head.weight, std=2.0)
    torch.nn.init.normal_(network.gender_head.weight, std=2.0)
    return network.eval()


def test_what_is_taught_is_the_mean_of_the_teachers_whatever_size_they_take() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 48, 48, 3), dtype=np.uint8)
    rows = np.arange(10, 290)
    samples = Samples(pixels, rows, np.zeros(280, np.float32), np.zeros(280, np.int64))
    same, smaller = teacher(0, 48), teacher(1, 32)
    soft_targets = np.concatenate(list(teacher_predict([same, smaller], samples, CPU)))
    assert soft_targets.shape == (280, SOFT_TARGET_COLUMNS) and soft_targets.dtype == np.float16
    assert np.allclose(soft_targets[:, :-1].sum(axis=1, dtype=np.float64), 1, atol=0.01)
    alone = np.concatenate(list(teacher_predict([same], samples, CPU)))
    other = np.concatenate(list(teacher_predict([smaller], samples, CPU)))
    assert np.allclose(soft_targets, (alone.astype(np.float64) + other) / 2, atol=2e-3)
    with torch.no_grad():
        outputs = same(torch.from_numpy(pixels[[10]]).permute(0, 3, 1, 2))
    assert np.allclose(alone[0, -1], outputs.gender_logit_B.sigmoid().item(), atol=1e-3)
    assert not np.allclose(alone, other, atol=0.01)


def test_a_batch_carries_what_is_taught_of_its_images() -> None:
    soft_targets = np.arange(6 * SOFT_TARGET_COLUMNS).reshape(6, SOFT_TARGET_COLUMNS).astype(np.float16)
    pixels = np.zeros((6, 8, 8, 3), np.uint8)
    samples = Samples(pixels, np.arange(6), np.zeros(6, np.float32), np.zeros(6, np.int64), soft_targets)
    batch = load_batch(samples, np.array([4, 1, 3]), 1, 2, CPU)
    assert batch.soft_targets_BX is not None
    assert torch.equal(batch.soft_targets_BX, torch.from_numpy(soft_targets[[1, 3]].astype(np.float32)))
