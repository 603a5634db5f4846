"""The network: pixels to float, one backbone, an age head and a gender head.

Shapes: B images, S side in pixels, F features, A = 121 age bins. The caller chooses device, precision and parallelism.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from agegender.artifact import MIN_SPREAD_YEARS, NetworkConfig
from agegender.errors import ConfigError, InputError
from agegender.model.backbones import (
    RGB_MEAN,
    RGB_STD,
    CompactBackbone,
    LargeBackbone,
    MobileNetV1Backbone,
    NotebookBackbone,
    torchvision_backbone,
)
from agegender.schema import AGE_BINS

logger = logging.getLogger(__name__)

OWN_BACKBONES: dict[str, Callable[[int], CompactBackbone | NotebookBackbone | MobileNetV1Backbone]] = {
    "compact": CompactBackbone,
    "large": LargeBackbone,
    "notebook": NotebookBackbone,
    "mobilenet_v1": MobileNetV1Backbone,
}
"""Name -> constructor, which takes the side of the input."""

PRIOR_AGE_YEARS = 33.0
PRIOR_AGE_SPREAD_YEARS = 20.0
"""Initial age estimate of an untrained head: mean and spread of common face data sets, so that training need not find them."""


class Outputs(NamedTuple):
    """The network's outputs for a batch, float32 in every precision of the backbone."""

    age_years_B: Tensor
    """float32[B], >= 0: median (in training mode expectation) of the distribution, or the scalar head's output."""

    age_logits_BA: Tensor | None
    """float32[B, A], one bin per year from 0; None for a scalar head."""

    gender_logit_B: Tensor
    """float32[B], positive is female."""

    def age_spread_years(self) -> Tensor:
        """Standard deviation of the age distribution, at least ``MIN_SPREAD_YEARS``, float32[B]; 1 for a scalar head."""
        if self.age_logits_BA is None:
            return torch.ones_like(self.age_years_B)
        years_A = torch.arange(self.age_logits_BA.shape[1], dtype=torch.float32, device=self.age_logits_BA.device)
        # centred: squares up to 120 x 120 would lose float32 precision in the difference
        years_A = years_A - AGE_BINS // 2
        probabilities_BA = self.age_logits_BA.softmax(dim=1)
        variance_B = probabilities_BA @ years_A**2 - (probabilities_BA @ years_A) ** 2
        return variance_B.clamp(min=MIN_SPREAD_YEARS**2).sqrt()


class FaceNetwork(nn.Module):
    """Backbone and two heads; ``build_network`` builds one by name."""

    def __init__(self, config: NetworkConfig, backbone: nn.Module, features: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.age_head = nn.Linear(features, AGE_BINS if config.age_head == "distribution" else 1)
        self.gender_head = nn.Linear(features, 1)
        # constants, so not part of the saved weights
        self.register_buffer("rgb_mean", torch.tensor(RGB_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("rgb_std", torch.tensor(RGB_STD).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("bin_years", torch.arange(AGE_BINS, dtype=torch.float32), persistent=False)
        self.rgb_mean: Tensor
        self.rgb_std: Tensor
        self.bin_years: Tensor
        self._init_heads_to_prior()

    @torch.no_grad()
    def _init_heads_to_prior(self) -> None:
        for head in (self.age_head, self.gender_head):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)
        if self.config.age_head == "distribution":
            self.age_head.bias.copy_(-0.5 * ((self.bin_years - PRIOR_AGE_YEARS) / PRIOR_AGE_SPREAD_YEARS) ** 2)
        else:
            self.age_head.bias.fill_(PRIOR_AGE_YEARS)

    def forward(self, images: Tensor) -> Outputs:
        """Estimate age and gender.

        Args:
            images: uint8[B, 3, S, S] RGB in any memory format, or float32 in 0-255; or already cropped to
                ``crop_size_px``, as augmentation does.
        """
        margin_px = (images.shape[-1] - self.config.crop_size_px) // 2
        end_px = margin_px + self.config.crop_size_px
        images = images[:, :, margin_px:end_px, margin_px:end_px]
        pixels = (images.to(self.rgb_mean.dtype) - self.rgb_mean) / self.rgb_std
        if self.config.views == 2 and not self.training:
            both = self.backbone(torch.cat([pixels, pixels.flip(3)]))
            features_BF = both.view(2, -1, both.shape[1]).mean(dim=0)
        else:
            features_BF = self.backbone(pixels)
        if not torch.is_autocast_enabled(images.device.type):
            return self._heads(features_BF)
        # the expectation over 121 bins in bfloat16 would lose half a year of accuracy
        with torch.autocast(images.device.type, enabled=False):
            return self._heads(features_BF.float())

    def _heads(self, features_BF: Tensor) -> Outputs:
        features_BF = self.dropout(features_BF)
        age_BX = self.age_head(features_BF)
        gender_logit_B = self.gender_head(features_BF).squeeze(1)
        if self.config.age_head == "scalar":
            # softplus: positive, close to the identity above a few years, and a gradient everywhere
            return Outputs(nn.functional.softplus(age_BX.squeeze(1)), None, gender_logit_B)
        # matrix products instead of sums: a runtime's sum over rows of odd length depends on memory alignment
        probabilities_BA = age_BX.softmax(dim=1)
        if self.training or self.config.age_readout == "expectation":
            return Outputs(probabilities_BA @ self.bin_years, age_BX, gender_logit_B)
        return Outputs(_median_years(probabilities_BA), age_BX, gender_logit_B)


def _median_years(probabilities_BA: Tensor) -> Tensor:
    """The median age, float32[B], >= 0; a bin's probability is spread evenly over its year."""
    below_BA = probabilities_BA.cumsum(dim=1) - probabilities_BA
    # share of each bin below the median: 1, a fraction in one bin, 0
    share_BA = ((0.5 - below_BA) / probabilities_BA.clamp(min=1e-12)).clamp(0.0, 1.0)
    ones_A = torch.ones(probabilities_BA.shape[1], device=probabilities_BA.device)
    return (share_BA @ ones_A - 0.5).clamp(min=0.0)


def build_network(config: NetworkConfig, weights: str | None = None) -> FaceNetwork:
    """Build a network with a new or pretrained backbone, and new heads unless the weights bring heads that fit.

    Args:
        config: ``backbone`` is ``compact``, ``large``, ``notebook``, ``mobilenet_v1`` or a torchvision classification
            model's name.
        weights: a file (.pth, .pt, .safetensors) with the backbone's weights or those of a whole ``FaceNetwork``; for
            ``mobilenet_v1`` also HSE's FaceRes or a network tuned from it (``HEAD_NAMES``); for a torchvision backbone
            also the name of pretrained weights (``DEFAULT``), which torchvision downloads.

    Raises:
        ConfigError: unknown backbone or weight name, or a backbone that does not accept this image size.
        InputError: the weights file is missing, unreadable or of another backbone.
    """
    is_file = weights is not None and Path(weights).suffix in (".pth", ".pt", ".safetensors")
    hub_name = None if is_file else weights
    if config.backbone in OWN_BACKBONES:
        if hub_name is not None:
            raise ConfigError(
                f"weights {hub_name!r}: backbone {config.backbone!r} has no named weights; "
                "give a .pth or .safetensors file, or leave --weights out to train from scratch"
            )
        built_in = OWN_BACKBONES[config.backbone](config.crop_size_px)
        backbone: nn.Module = built_in
        features = built_in.features
    else:
        backbone, features = torchvision_backbone(config.backbone, config.crop_size_px, hub_name)
    network = FaceNetwork(config, backbone, features)
    if is_file and weights is not None:
        _load_weights(network, Path(weights).expanduser())
    # 10-30 % faster to train on CPUs than the default memory format, and preferred by tensor cores
    return network.to(memory_format=torch.channels_last)


HEAD_NAMES = {"age_head": "age", "gender_head": "gen"}
"""Our heads -> their names in the file of a network that was tuned elsewhere. Linear: logits of 121 ages, and of female."""


def _load_weights(network: FaceNetwork, path: Path) -> None:
    file = _read_weights(path)
    backbone, name = network.backbone, network.config.backbone
    prefixed = {key.removeprefix("backbone."): value for key, value in file.items() if key.startswith("backbone.")}
    given = prefixed or file
    if isinstance(backbone, MobileNetV1Backbone):
        given = backbone.from_faceres(given)
    expected = backbone.state_dict()
    missing = [key for key in expected if key not in given and not key.endswith("num_batches_tracked")]
    mismatched = [key for key in expected if key in given and given[key].shape != expected[key].shape]
    if missing or mismatched:
        raise InputError(
            f"{path}: not the weights of backbone {name!r}: {len(missing)} of {len(expected)} tensors are missing "
            f"({', '.join(missing[:3])}), {len(mismatched)} have another shape ({', '.join(mismatched[:3])}); "
            "set --backbone to the one they were trained for, or give other weights"
        )
    # ignores other tensors, such as the classifier that our heads replace
    backbone.load_state_dict({key: given[key] for key in expected if key in given}, strict=False)
    heads = _heads_that_fit(network, file)
    network.load_state_dict(heads, strict=False)
    logger.info(
        "%s: weights of backbone %s %s", path, name, "and of both heads" if heads else "alone: the heads are new"
    )


def _heads_that_fit(network: FaceNetwork, file: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Both heads out of a weights file, under our names; empty if one is missing or of another shape."""
    heads = {}
    for ours, theirs in HEAD_NAMES.items():
        for key, value in network.get_submodule(ours).state_dict(prefix=f"{ours}.").items():
            found = file.get(key, file.get(key.replace(ours, theirs)))
            if found is None or found.shape != value.shape:
                return {}
            heads[key] = found
    return heads


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such weights file; check --weights")
    try:
        # weights_only: the file cannot run code
        given: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except UnpicklingError as error:
        raise InputError(
            f"{path}: not a weights file, or it contains more than tensors; give the file of a state_dict"
        ) from error
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        raise InputError(f"{path}: cannot be read as weights ({error}); download or convert it again") from error
    if isinstance(given, dict) and isinstance(given.get("state_dict"), dict):
        given = given["state_dict"]
    if not isinstance(given, dict) or not all(isinstance(value, Tensor) for value in given.values()):
        raise InputError(f"{path}: is not a state_dict of tensors; give the file of a state_dict")
    return given
