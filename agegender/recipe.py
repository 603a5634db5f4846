"""The training recipe: network, optimization, augmentation, and the presets. All that the trainer needs.

Field docstrings are the help texts of ``agegender train``'s flags.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from agegender.options import OUTPUT, Fraction, Options, Positive, PrecisionOrAuto


class Augmentation(Options):
    """Augmentation of training images; each range is sampled uniformly per image."""

    flip_probability: Fraction = 0.5
    """share of images mirrored left to right"""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 15.0
    """largest rotation either way"""

    zoom_min: Annotated[float, Field(gt=0, le=1)] = 0.8
    """smallest zoom: below 1 the face shrinks"""

    zoom_max: Annotated[float, Field(ge=1)] = 1.2
    """largest zoom: above 1 the face grows"""

    shift_fraction: Fraction = 0.08
    """largest shift either way, as a share of the side"""

    brightness: Fraction = 0.3
    """largest relative change of brightness"""

    contrast: Fraction = 0.3
    """largest relative change of contrast"""

    darkness_probability: Fraction = 0.1
    """share of images that are darkened, down to a fifth of their brightness"""

    noise_probability: Fraction = 0.1
    """share of images with Gaussian noise of up to 30 of 255"""

    low_resolution_probability: Fraction = 0.1
    """share of images that are downscaled and upscaled, down to a third of the side"""

    erase_probability: Fraction = 0.3
    """share of images that lose one random rectangle"""


class Recipe(Options):
    """The network and how it is trained, but nothing about where it runs."""

    backbone: Annotated[str, OUTPUT] = "compact"
    """compact, large, notebook, mobilenet_v1, or the name of a torchvision classification model, e.g. resnet50"""

    weights: Annotated[str | None, OUTPUT] = None
    """initial weights of the backbone, and of the heads if it has them and they fit: a file (.pth, .safetensors; of mobilenet_v1
    also HSE's FaceRes) or, for torchvision's, a name such as DEFAULT (downloads them)"""

    age_head: Annotated[Literal["distribution", "scalar"], OUTPUT] = "distribution"
    """distribution: 121 bins, one per year; scalar: one number"""

    age_readout: Annotated[Literal["expectation", "median"], OUTPUT] = "median"
    """which statistic of the age distribution is the estimate; training always minimises the error of the expectation"""

    views: Annotated[Literal[1, 2], BeforeValidator(int), OUTPUT] = 2  # the command line gives text
    """2: estimate from the image and its mirror image together, at twice the time"""

    image_size_px: Annotated[int, Field(ge=32, le=512), OUTPUT] = 128
    """side of the square that training images are resized to"""

    crop_fraction: Annotated[float, Field(gt=0.5, le=1), OUTPUT] = 0.875
    """side of the central crop that the network learns from, as a share of the image; the margin fills in where images are
    rotated or shifted. The trained network also sees half of the margin, if --augment.zoom-min has shown it faces that small"""

    epochs: Annotated[Positive, OUTPUT] = 80
    """passes over the training part"""

    batch_size: Annotated[Positive, OUTPUT] = 128
    """images per step over all workers together"""

    optimizer: Annotated[Literal["muon", "adamw"], OUTPUT] = "muon"
    """muon: orthogonalized momentum for hidden layers, AdamW for the rest; adamw: AdamW for all"""

    learning_rate: Annotated[float, Field(gt=0), OUTPUT] = 5e-3
    """peak learning rate; default: the preset's times the square root of --batch-size over the preset's batch size;
    for --optimizer adamw, start near 2e-3"""

    weight_decay: Annotated[float, Field(ge=0), OUTPUT] = 0.15
    """decoupled weight decay, on matrices and filters only"""

    schedule: Annotated[Literal["one-cycle", "constant"], OUTPUT] = "one-cycle"
    """one-cycle: linear warm-up, then cosine to zero"""

    warmup_fraction: Annotated[Fraction, OUTPUT] = 0.15
    """share of the steps spent warming up"""

    ema_decay: Annotated[float, Field(ge=0, lt=1), OUTPUT] = 0.998
    """decay per step of the averaged weights (EMA) that are evaluated and saved; 0: no averaging"""

    gradient_clip_norm: Annotated[float, Field(ge=0), OUTPUT] = 5.0
    """clip the gradient to this norm; 0: no clipping"""

    precision: Annotated[PrecisionOrAuto, OUTPUT] = "auto"
    """auto: bfloat16 if the processor is faster in it, else float32; resolved once and recorded"""

    age_sigma_years: Annotated[float, Field(gt=0), OUTPUT] = 2.5
    """width of the Gaussian target of the age distribution"""

    age_distribution_weight: Annotated[float, Field(ge=0), OUTPUT] = 1.0
    """weight of the divergence from the age target, in nats"""

    age_error_weight: Annotated[float, Field(ge=0), OUTPUT] = 0.2
    """weight of the mean absolute age error, per year; the only age loss of a scalar head"""

    gender_weight: Annotated[float, Field(ge=0), OUTPUT] = 1.0
    """weight of the binary cross-entropy of gender, in nats"""

    teacher_weight: Annotated[Fraction, OUTPUT] = 0.5
    """with --teacher: weight of the teachers, asked about each augmented image, in the target; the label has the rest"""

    mixup_alpha: Annotated[float, Field(ge=0), OUTPUT] = 0.0
    """mixup: images of a batch are mixed in pairs, with weights drawn from Beta(alpha, alpha); 1: all weights are equally likely,
    small: mostly one image; 0: off"""

    augment: Annotated[Augmentation, OUTPUT] = Augmentation()
    """augmentation of training images"""

    seed: Annotated[int, OUTPUT] = 0
    """seed of initial weights, order, augmentation and split"""

    @model_validator(mode="after")
    def _check_age_learns(self) -> Self:
        if self.age_head == "scalar" and self.age_error_weight == 0:
            raise ValueError(
                "age_error_weight 0 with age_head scalar: there is no age loss; give --age-error-weight 0.2"
            )
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "compact": {},
    "large": {
        "backbone": "large",
        "image_size_px": 184,
        "crop_fraction": 0.87,
        "batch_size": 256,
        "learning_rate": 7e-3,
    },
    "mobilenet": {
        "backbone": "mobilenet_v1",
        "image_size_px": 192,
        "crop_fraction": 0.917,  # 176 px
        "epochs": 20,
        "optimizer": "adamw",
        "learning_rate": 3e-4,
        "weight_decay": 0.01,
    },
    "notebook": {
        "backbone": "notebook",
        "age_head": "scalar",
        "views": 1,
        "image_size_px": 64,
        "crop_fraction": 1.0,
        "epochs": 30,
        "batch_size": 64,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
        "ema_decay": 0.0,
        "gradient_clip_norm": 0.0,
        "precision": "float32",
        "age_distribution_weight": 0.0,
        "age_error_weight": 1.0,
        "augment": {
            "flip_probability": 0.0,
            "rotation_degrees": 0.0,
            "zoom_min": 1.0,
            "zoom_max": 1.0,
            "shift_fraction": 0.0,
            "brightness": 0.0,
            "contrast": 0.0,
            "darkness_probability": 0.0,
            "noise_probability": 0.0,
            "low_resolution_probability": 0.0,
            "erase_probability": 0.0,
        },
    },
}
"""Preset -> values that replace the defaults of ``Recipe``; values that the user gives take precedence."""


def learning_rate_for(batch_size: int, preset: str) -> float:
    """The peak learning rate of a preset, scaled to another global batch by the square root of their ratio.

    The update size of AdamW and Muon does not depend on the gradient's size, so a larger batch gives more accurate steps, not
    longer ones, and fewer of them. To keep the noise of the whole run, the learning rate grows with the square root of the
    batch size. It was tuned only at the preset's batch size; beyond eight times that it is a first guess.

    Args:
        batch_size: images per step over all workers.
        preset: a name in ``PRESETS``.

    Source: Annotated[Malladi et al. (2022), On the SDEs and scaling rules for adaptive gradient algorithms., OUTPUT]
    """
    tuned = {name: field.default for name, field in Recipe.model_fields.items()} | PRESETS[preset]
    return float(tuned["learning_rate"]) * math.sqrt(batch_size / tuned["batch_size"])
