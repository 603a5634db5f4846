"""``mobilenet_v1`` beside the network that its weights were learnt in, written out as its authors' graph computes it."""

import itertools
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from agegender.artifact import NetworkConfig
from agegender.errors import InputError
from agegender.model import batches, trainer
from agegender.model.network import FaceNetwork, build_network
from agegender.model.optimizer import make_optimizer
from agegender.model.transforms import resized
from agegender.recipe import Recipe
from tests.support.drawn import UNVARIED

ROOT = Path(__file__).parents[3]
FACERES = Path(os.environ.get("AGEGENDER_FACERES", ROOT / "../shared/models/faceres_mobilenet_v1.safetensors"))
TUNED = Path(os.environ.get("AGEGENDER_TUNED", ROOT / "../shared/models/teacher_mobilenet_v1.safetensors"))
UTKFACE = Path(os.environ.get("AGEGENDER_UTKFACE", ROOT / "../shared/data/utkface"))

CHANNELS = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
STRIDES = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]

Weights = dict[str, torch.Tensor]


def convolved(x: torch.Tensor, given: Weights, name: str, stride: int, groups: int) -> torch.Tensor:
    """A convolution with TensorFlow's padding SAME, and ReLU6."""
    weight, bias = given[f"{name}.weight"].float(), given[f"{name}.bias"].float()
    side, kernel = x.shape[-1], weight.shape[-1]
    whole = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    before, after = whole // 2, whole - whole // 2
    x = torch.nn.functional.pad(x, (before, after, before, after))
    return torch.nn.functional.conv2d(x, weight, bias, stride, groups=groups).clamp(0, 6)


def original(images: torch.Tensor, given: Weights) -> torch.Tensor:
    """uint8[B, 3, S, S] RGB -> float32[B, 1024], the mean over the last map."""
    x = images.float()[:, [2, 1, 0]] - torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    x = convolved(x, given, "conv1", 2, 1)
    for index, stride in enumerate(STRIDES):
        x = convolved(x, given, f"dw.{index}", stride, x.shape[1])
        x = convolved(x, given, f"pw.{index}", 1, 1)
    return x.mean(dim=(2, 3))


def features(network: FaceNetwork, images: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = network.backbone((images.float() - network.rgb_mean) / network.rgb_std)
    return found


def build(side: int, weights: Path | None = None) -> FaceNetwork:
    config = NetworkConfig(backbone="mobilenet_v1", age_head="distribution", image_size_px=side)
    return build_network(config, None if weights is None else str(weights)).eval()


def noise(count: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def drawn() -> Weights:
    """Random weights under the names of the file, whose features differ from image to image."""
    torch.manual_seed(0)
    given = {"conv1.weight": torch.randn(32, 3, 3, 3) / 300, "conv1.bias": torch.randn(32)}
    for index, (channels, width) in enumerate(itertools.pairwise(CHANNELS)):
        given |= {f"dw.{index}.weight": torch.randn(channels, 1, 3, 3) / 2, f"dw.{index}.bias": torch.randn(channels)}
        spread = (2 / channels) ** 0.5
        given |= {
            f"pw.{index}.weight": torch.randn(width, channels, 1, 1) * spread,
            f"pw.{index}.bias": torch.ones(width),
        }
    given |= {"feats.weight": torch.randn(256, 1024), "feats.bias": torch.randn(256)}  # heads, which are ignored
    return {name: value.half() for name, value in given.items()}


@pytest.fixture
def file(drawn: Weights, tmp_path: Path) -> Path:
    save_file(drawn, tmp_path / "faceres.safetensors")
    return tmp_path / "faceres.safetensors"


@pytest.mark.parametrize("side", [64, 75, 88])  # sides that are even at each stride, and odd at the first and the last
@torch.no_grad()
def test_it_computes_what_the_original_computes(side: int, drawn: Weights, file: Path) -> None:
    images = noise(3, side)
    expected = original(images, drawn)
    assert expected.std(dim=0).mean() > 0.01, "images must differ for this to mean something"
    torch.testing.assert_close(features(build(side, file), images), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("whole", [True, False])
def test_its_own_weights_are_taken_as_they_are(whole: bool, file: Path, tmp_path: Path) -> None:
    network = build(64, file)
    state = (network if whole else network.backbone).state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "ours.safetensors")
    again = build(64, tmp_path / "ours.safetensors")
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(again.backbone.state_dict()[name], value), name


@torch.no_grad()
def test_the_heads_of_a_tuned_network_come_with_it(
    drawn: Weights, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = {f"b.{name}": value for name, value in drawn.items() if not name.startswith("feats")}
    tuned |= {"age.weight": torch.randn(121, 1024) / 30, "age.bias": torch.randn(121)}
    tuned |= {"gen.weight": torch.randn(1, 1024) / 30, "gen.bias": torch.randn(1)}
    path = tmp_path / "tuned.safetensors"
    save_file(tuned, path)
    images = noise(3, 64)
    expected = original(images, drawn)
    with caplog.at_level(logging.INFO):
        outputs = build(64, path)(images)
    assert "weights of backbone mobilenet_v1 and of both heads" in caplog.text
    torch.testing.assert_close(
        outputs.age_logits_BA, expected @ tuned["age.weight"].T + tuned["age.bias"], rtol=0, atol=1e-3
    )
    gender = (expected @ tuned["gen.weight"].T + tuned["gen.bias"]).squeeze(1)
    torch.testing.assert_close(outputs.gender_logit_B, gender, rtol=0, atol=1e-3)
    # one head that does not fit, and both are new: they were learnt together
    for other in ({"age.weight": torch.zeros(100, 1024), "age.bias": torch.zeros(100)}, {"gen.bias": torch.zeros(2)}):
        save_file(tuned | other, path)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            network = build(64, path)
        assert "alone: the heads are new" in caplog.text
        assert not torch.equal(network.gender_head.weight, tuned["gen.weight"])


def test_files_of_other_networks_are_refused(drawn: Weights, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: value for name, value in drawn.items() if not name.startswith("pw.12")}, path)
    with pytest.raises(InputError, match=r"not the weights of backbone 'mobilenet_v1': 2 of 54 .* \(pw\.12\.weight"):
        build(64, path)
    for first in (torch.zeros(32, 3, 5, 5), torch.zeros(32, 1, 3, 3), torch.zeros(32)):
        save_file(drawn | {"conv1.weight": first}, path)
        with pytest.raises(InputError, match=r"0 of 54 .* 1 have another shape \(stem\.weight\)"):
            build(64, path)
    save_file({"layer1.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"54 of 54 tensors are missing \(stem\.weight"):
        build(64, path)


def test_its_size() -> None:
    # MobileNet-v1's 3,228,864 without its classifier, less the four numbers of a norm for each of 10,944 channels, plus a
    # bias for each
    parameters = sum(parameter.numel() for parameter in build(64).backbone.parameters())
    assert parameters == 3_228_864 - 4 * 10_944 + 10_944


def test_it_learns() -> None:
    """From scratch, without norms: all layers get a signal and a gradient of the right size."""
    torch.manual_seed(0)
    recipe = Recipe(optimizer="adamw", augment=UNVARIED)
    ages = np.tile(np.array([10, 70], np.float32), 8)
    pixels = np.broadcast_to((3 * ages).astype(np.uint8)[:, None, None, None], (16, 32, 32, 3)).copy()
    samples = batches.Samples(pixels, np.arange(16), ages, (ages > 40).astype(np.int64))
    batch = batches.load_batch(samples, np.arange(16), 0, 1, torch.device("cpu"))
    network = build(32)
    optimizer = make_optimizer(network, recipe)
    losses = []
    for _ in range(8):
        terms = trainer.train_step(network, optimizer, batch, recipe, 1e-3, "float32")
        losses.append(trainer.weighted_loss({name: float(term) for name, term in terms.items()}, recipe))
    assert np.isfinite(losses).all() and losses[-1] < losses[0] / 2


@pytest.mark.skipif(not FACERES.is_file(), reason=f"no weights of FaceRes at {FACERES}: set AGEGENDER_FACERES")
@pytest.mark.skipif(not UTKFACE.is_dir(), reason=f"AGEGENDER_UTKFACE: no folder {UTKFACE}")
@pytest.mark.parametrize("side", [224, 176])
@torch.no_grad()
def test_with_the_published_weights_it_says_what_the_original_says(side: int) -> None:
    given = load_file(FACERES)
    paths = sorted(path for path in UTKFACE.iterdir() if path.name.count("_") == 3)[::1500]
    faces = [np.asarray(Image.open(path).convert("RGB").resize((side, side))) for path in paths]
    images = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2)
    expected = original(images, given)
    assert expected.std(dim=0).mean() > 0.01
    torch.testing.assert_close(features(build(side, FACERES), images), expected, rtol=0, atol=1e-3)
    # what is written out above is that network: its own heads know the faces
    hidden = torch.relu(expected @ given["feats.weight"].float().T + given["feats.bias"].float())
    gender = (hidden @ given["gender.weight"].float().T + given["gender.bias"].float()).squeeze(1)
    age = (hidden @ given["age.weight"].float().T + given["age.bias"].float()).softmax(dim=1) @ torch.arange(100.0)
    known = torch.tensor([[int(part) for part in path.name.split("_")[:2]] for path in paths])
    assert ((gender < 0).long() == known[:, 1]).float().mean() >= 0.75
    assert (age - known[:, 0]).abs().mean() < 12


@pytest.mark.skipif(not TUNED.is_file(), reason=f"no weights of a tuned network at {TUNED}: set AGEGENDER_TUNED")
@pytest.mark.skipif(not UTKFACE.is_dir(), reason=f"AGEGENDER_UTKFACE: no folder {UTKFACE}")
@torch.no_grad()
def test_a_tuned_network_knows_faces_at_once() -> None:
    paths = sorted(path for path in UTKFACE.iterdir() if path.name.count("_") == 3)[::150]
    images = torch.from_numpy(np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths]))
    outputs = build(176, TUNED)(resized(images.permute(0, 3, 1, 2), 176))
    known = torch.tensor([[int(part) for part in path.name.split("_")[:2]] for path in paths])
    assert ((outputs.gender_logit_B > 0) == (known[:, 1] == 1)).float().mean() > 0.9
    assert (outputs.age_years_B - known[:, 0]).abs().mean() < 5
