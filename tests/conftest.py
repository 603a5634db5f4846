import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# What must pass draws the same examples every time, so that a change and not chance turns it red. `HYPOTHESIS_PROFILE=explore`
# looks for new ones.
settings.register_profile("fixed", max_examples=60, derandomize=True, database=None, deadline=None)
settings.register_profile("explore", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


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


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray of two CPUs for all tests of a run."""
    from agegender.pipelines.runtime.session import ray_session

    with ray_session(num_cpus=2):
        yield
