import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model whose intervals are as wide as its spread: whole and valid, and quickly made."""
    import torch

    from agegender.artifact import Calibration, NetworkConfig
    from agegender.model.checkpoint import save_model
    from agegender.model.network import build_network
    from agegender.schema import AGE_BINS

    torch.manual_seed(0)
    config = NetworkConfig(backbone="compact", age_head="distribution", image_size_px=32)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    factors = {"age_low_factors": [0.5] * AGE_BINS, "age_high_factors": [0.5] * AGE_BINS}
    none = np.zeros(0, np.uint64)
    save_model(folder, build_network(config), Calibration(**factors), none, none, "", {}, {})
    return folder
