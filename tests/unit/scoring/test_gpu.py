import numpy as np
import pytest
import torch

from agegender.errors import ConfigError, InputError
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.gpu import TorchScorer


@pytest.mark.parametrize("fixture", ["model_folder", "scalar_folder", "mobilenet_folder"])
def test_torch_and_onnx_runtime_agree(fixture, images, request):
    folder = request.getfixturevalue(fixture)
    torch_scored, onnx_scored = TorchScorer(folder, "cpu", 16).score(images), CpuScorer(folder).score(images)
    for name in ("age_years", "age_low_years", "age_high_years"):
        assert np.abs(getattr(torch_scored, name) - getattr(onnx_scored, name)).max() < 0.01, name
    assert np.abs(torch_scored.female_probability - onnx_scored.female_probability).max() < 1e-4
    if fixture != "scalar_folder":
        assert torch_scored.age_probabilities is not None
        assert onnx_scored.age_probabilities is not None
        assert np.abs(torch_scored.age_probabilities - onnx_scored.age_probabilities).max() < 1e-4
    else:
        assert torch_scored.age_probabilities is None


def test_a_gpu_that_is_not_there_is_a_config_error(model_folder):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="sees no GPU"):
        TorchScorer(model_folder)


def test_a_missing_model_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such model folder"):
        TorchScorer(tmp_path / "nowhere", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bfloat16_stays_close_to_float32(model_folder, images):
    gpu, cpu = TorchScorer(model_folder, "cuda", 16).score(images), CpuScorer(model_folder).score(images)
    assert np.abs(gpu.age_years - cpu.age_years).mean() < 0.5
