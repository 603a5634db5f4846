"""Backbones: normalised pixels in, one feature vector per image out.

Shapes: float32[B, 3, S, S] -> float32[B, F].
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from agegender.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from types import ModuleType

RGB_MEAN = (123.675, 116.28, 103.53)  # of ImageNet, 0-255, as torchvision's weights expect
RGB_STD = (58.395, 57.12, 57.375)
"""How pixels are normalised before they come to a backbone: (RGB - mean) / std."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2016); dense, because depthwise ones are not faster on CPUs."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """float32[B, channels_in, H, W] -> float32[B, channels, H / stride, W / stride]."""
        residual = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        activated: Tensor = self.relu(residual + self.shortcut(x))
        return activated


class CompactBackbone(nn.Module):
    """A narrow residual network that trains on two CPU cores: a stride-4 stem, four stages, global depthwise pooling.

    The stem reduces the side to a quarter in one step: feature maps at half of it take as long as a whole stage without
    better accuracy (docs/accuracy.md). Faces are aligned, so positions matter: instead of a mean, the pool is a depthwise
    convolution over the whole last map, one weight per position and channel (Chen et al., 2018, MobileFaceNets).

    Args:
        image_size_px: side of the input.
        widths: channels of each stage.
        blocks: residual blocks of each stage.
        strides: of each stage's first block.
        stem: kernel and stride of the first convolution.
    """

    def __init__(
        self,
        image_size_px: int,
        widths: Sequence[int] = (48, 96, 160, 256),
        blocks: Sequence[int] = (1, 1, 2, 1),
        strides: Sequence[int] = (1, 2, 2, 2),
        stem: tuple[int, int] = (7, 4),
    ) -> None:
        super().__init__()
        self.features = widths[-1]
        kernel, stem_stride = stem
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], kernel, stem_stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(inplace=True),
        )
        stages: list[nn.Module] = []
        channels = widths[0]
        for width, count, stride in zip(widths, blocks, strides, strict=True):
            for index in range(count):
                stages.append(ResidualBlock(channels, width, stride if index == 0 else 1))
                channels = width
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        side = image_size_px
        for stride in (stem_stride, *strides):
            side = -(-side // stride)
        position_weights = nn.Conv2d(channels, channels, side, groups=channels, bias=False)
        nn.init.constant_(position_weights.weight, 1 / side**2)  # starts as mean pooling
        self.pool = nn.Sequential(position_weights, nn.BatchNorm2d(channels))

    def forward(self, pixels: Tensor) -> Tensor:
        """float32[B, 3, S, S] -> float32[B, F]."""
        features_BF: Tensor = self.pool(self.stages(self.stem(pixels))).flatten(1)
        return features_BF


class LargeBackbone(CompactBackbone):
    """``CompactBackbone``, wider, deeper and with feature maps of four times the area: for GPUs."""

    def __init__(self, image_size_px: int) -> None:
        super().__init__(
            image_size_px, widths=(64, 128, 224, 320), blocks=(2, 2, 2, 2), strides=(2, 2, 2, 2), stem=(7, 2)
        )


class NotebookBackbone(nn.Module):
    """The plain CNN of the original notebook, as a baseline.

    Its layers were not published; this reconstruction: four times (3x3 convolution of 32, 64, 128, 256 channels, ReLU, 2x2 max pool),
    flatten, dense 256, ReLU, dropout 0.3. No normalisation layers. The two heads are its outputs.
    """

    features = 256

    def __init__(self, image_size_px: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels in ((3, 32), (32, 64), (64, 128), (128, 256)):
            layers += [nn.Conv2d(channels_in, channels, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        side = image_size_px // 2**4
        layers += [nn.Flatten(), nn.Linear(256 * side * side, self.features), nn.ReLU(inplace=True), nn.Dropout(0.3)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """float32[B, 3, S, S] -> float32[B, F]."""
        features_BF: Tensor = self.layers(pixels)
        return features_BF


class SameConv2d(nn.Conv2d):
    """A 3x3 convolution with TensorFlow's padding SAME: with stride 2, an even side is padded right and below only.

    Args:
        channels_in: of the input.
        channels: of the output.
        stride: 1 or 2.
        side: of the input, in pixels.
        groups: as of ``nn.Conv2d``.
    """

    def __init__(self, channels_in: int, channels: int, stride: int, side: int, groups: int = 1) -> None:
        self.one_sided = stride == 2 and side % 2 == 0
        super().__init__(channels_in, channels, 3, stride, padding=0 if self.one_sided else 1, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        """float32[B, channels_in, side, side] -> float32[B, channels, side / stride rounded up, the same]."""
        return super().forward(nn.functional.pad(input, (0, 1, 0, 1)) if self.one_sided else input)


class MobileNetV1Backbone(nn.Module):
    """MobileNet-v1 (Howard et al., 2017) as TensorFlow runs it, which takes the published weights of HSE's FaceRes.

    Those come with the norms folded into the convolutions, and so does this network: convolutions with a bias, ReLU6, and
    nothing else. Norms with a mean of 0 and a variance of 1 could be put back without changing what the network says, but
    only while it is scored: in training they would take the batch's statistics, and what was learnt would be lost at the
    first step.

    Such a network is a good place to start from and a bad one to move far from. Nothing rescales its layers: weight decay,
    which a norm would make up for, makes the output of each of 27 smaller. So tune it with AdamW, a low learning rate and
    little weight decay. It also learns from scratch (He et al., 2015, initialise it), though nobody should need that.

    Args:
        image_size_px: side of the input.
    """

    features = 1024
    CHANNELS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    PUBLISHED_MEAN = (123.68, 116.779, 103.939)
    """RGB, 0-255: what the published network takes off its pixels."""

    def __init__(self, image_size_px: int) -> None:
        super().__init__()
        channels, side = 32, image_size_px
        self.stem = SameConv2d(3, channels, 2, side)
        side = -(-side // 2)
        self.dw, self.pw = nn.ModuleList(), nn.ModuleList()
        for width, stride in zip(self.CHANNELS, self.STRIDES, strict=True):
            self.dw.append(SameConv2d(channels, channels, stride, side, groups=channels))
            self.pw.append(nn.Conv2d(channels, width, 1))
            channels, side = width, -(-side // stride)
        self.relu = nn.ReLU6(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # all have one
        # not part of the first bias: the border is padded with what is 0 after it
        shift = [
            (ours - theirs) / std for ours, theirs, std in zip(RGB_MEAN, self.PUBLISHED_MEAN, RGB_STD, strict=True)
        ]
        self.register_buffer("shift", torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.shift: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        """float32[B, 3, S, S] -> float32[B, F]."""
        x = self.relu(self.stem(pixels + self.shift))
        for depthwise, pointwise in zip(self.dw, self.pw, strict=True):
            x = self.relu(pointwise(self.relu(depthwise(x))))
        features_BF: Tensor = self.pool(x).flatten(1)
        return features_BF

    @staticmethod
    def from_faceres(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """FaceRes's tensors under our names, its first filters for our pixels; all others, our own files' too, as they are.

        The names may begin with ``b.``, as in a network that was tuned from it elsewhere.

        FaceRes's ``conv1`` sees BGR - mean and is small, because pixels are large. Ours sees (RGB - mean) / std: filters
        in RGB, multiplied by the std, so that an optimizer's steps are small beside them, too.
        """
        given = {name.removeprefix("b."): value for name, value in given.items()}
        stem = {name: value for name, value in given.items() if name.startswith("conv1.")}
        renamed = {name.replace("conv1.", "stem."): value for name, value in stem.items()}
        filters = renamed.get("stem.weight")
        if filters is not None and filters.ndim == 4 and filters.shape[1] == 3:
            renamed["stem.weight"] = filters.float().flip(1) * torch.tensor(RGB_STD).view(1, 3, 1, 1)
        return {name: value for name, value in given.items() if name not in stem} | renamed


def torchvision_backbone(name: str, image_size_px: int, weights: str | None) -> tuple[nn.Module, int]:
    """A torchvision classification model without its last layer.

    Args:
        name: torchvision's name, e.g. ``resnet50``.
        image_size_px: side of the input, checked with one forward pass.
        weights: torchvision's name of pretrained weights, e.g. ``DEFAULT``; downloaded unless cached.

    Returns:
        The model, float32[B, 3, S, S] -> float32[B, F], and F.

    Raises:
        ConfigError: no such model or weights, or the model does not fit the heads or the image size.
        ResourceError: the weights could not be downloaded.
    """
    import torchvision.models as zoo  # imported here because it takes 8-10 s in each process

    if name not in zoo.list_models(module=zoo):
        raise ConfigError(
            f"backbone {name!r}: not compact, large, notebook, mobilenet_v1 or a torchvision classification model; "
            "try resnet18, resnet50, mobilenet_v3_small or efficientnet_b0"
        )
    model = _build(zoo, name, weights)
    last = [(path, module) for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not last or getattr(model, "aux_logits", False):
        raise ConfigError(f"backbone {name!r}: has no last linear layer for the heads to replace; choose another")
    path, linear = last[0]
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, nn.Identity())
    _check_image_size(model, name, image_size_px, linear.in_features)
    return model, linear.in_features


def _build(zoo: "ModuleType", name: str, weights: str | None) -> nn.Module:
    choice = None
    if weights is not None:
        names = [each.name for each in zoo.get_model_weights(name)]
        if weights != "DEFAULT" and weights not in names:
            raise ConfigError(
                f"weights {weights!r}: neither a file (.pth, .safetensors) nor one of torchvision's for {name}: "
                f"DEFAULT, {', '.join(names)}"
            )
        choice = weights
    try:
        model: nn.Module = zoo.get_model(name, weights=choice)
    except OSError as error:  # urllib's errors are OSErrors
        raise ResourceError(
            f"weights {weights!r} of {name}: torchvision could not download them ({error}); "
            "try again, or download the file elsewhere and give its path"
        ) from error
    return model


@torch.no_grad()
def _check_image_size(model: nn.Module, name: str, image_size_px: int, features: int) -> None:
    """Run the model once: one that needs a fixed image size (vision transformers) fails only in the forward pass."""
    training = model.training
    try:
        shape = tuple(model.eval()(torch.zeros(1, 3, image_size_px, image_size_px)).shape)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"backbone {name!r} does not take images of {image_size_px} px ({error}); "
            "change --image-size-px or the backbone"
        ) from error
    if shape != (1, features):
        raise ConfigError(f"backbone {name!r}: gives {shape}, not (1, {features}) features; take another backbone")
    model.train(training)
