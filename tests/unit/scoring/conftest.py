from pathlib import Path

import numpy as np
import pytest
import torch

from agegender.artifact import Calibration, NetworkConfig
from agegender.model.batches import Samples
from agegender.model.checkpoint import save_model
from agegender.model.network import build_network
from agegender.pipelines.train.int8 import add_int8

SIDE_PX = 48


def write_model(folder: Path, age_head: str = "distribution", backbone: str = "compact") -> Path:
    """An untrained model, with an int8 graph, whose answers differ from image to image."""
    torch.manual_seed(0)
    config = NetworkConfig.model_validate({"backbone": backbone, "age_head": age_head, "image_size_px": SIDE_PX})
    network = build_network(config)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    torch.nn.init.normal_(network.age_head.weight, std=3.0 if age_head == "distribution" else 20.0)
    torch.nn.init.normal_(network.gender_head.weight, std=1.0)
    calibration = Calibration(age_low_factors=[0.4] * 121, age_high_factors=[0.6] * 121)
    images = np.arange(10, dtype=np.uint64)
    save_model(folder, network, calibration, images[:8], images[8:], "ab", {"epochs": 1}, {})
    pictures = smooth_pictures(24, seed=1)
    rng = np.random.default_rng(1)
    ages, genders = rng.integers(0, 90, 16).astype(np.float32), rng.integers(0, 2, 16)
    add_int8(folder, pictures[:8], Samples(pictures[8:], np.arange(16), ages, genders))
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "distribution")


@pytest.fixture(scope="session")
def scalar_folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "scalar", "scalar", "notebook")


@pytest.fixture(scope="session")
def mobilenet_folder(tmp_path_factory) -> Path:
    """Depthwise convolutions, one-sided padding, a mean over the last map, and no norms."""
    return write_model(tmp_path_factory.mktemp("models") / "mobilenet", backbone="mobilenet_v1")


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return smooth_pictures(40, seed=0)


def smooth_pictures(count: int, seed: int) -> np.ndarray:
    """Smooth pictures of many colours and contrasts, as faces are, rather than noise that all looks the same."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.integers(0, 256, (count, 3, 5, 5)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(SIDE_PX, SIDE_PX), mode="bilinear")
    return smooth.permute(0, 2, 3, 1).contiguous().to(torch.uint8).numpy()
