"""The model folder: its files and the schema of ``model.json``.

A model is a folder::

    weights.safetensors      the averaged weights, filters and matrices as float16
    model.onnx               network + pre-processing + calibration of whole crops in one graph, for scoring on CPUs
    model.int8.onnx          the same graph with the backbone quantised to 8 bits; optional
    training_images.u64      sorted little-endian uint64: first 8 bytes of the content hash of each training or
                             calibration image
    calibration_images.u64   those of them that were only used for calibration; optional
    model.json               ``ModelInfo``: architecture, calibration, metrics, and the SHA-256 of the other files

No I/O here: ``scoring.load`` reads and checks a folder, ``model.checkpoint`` writes one.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from agegender.schema import AGE_BINS

FORMAT_VERSION = 2
WEIGHTS_FILE = "weights.safetensors"
GRAPH_FILE = "model.onnx"
INT8_GRAPH_FILE = "model.int8.onnx"
TRAINING_IMAGES_FILE = "training_images.u64"
CALIBRATION_IMAGES_FILE = "calibration_images.u64"
INFO_FILE = "model.json"

FRAMING = "utkface-chip-1"
"""Name of the face alignment that models of this release are trained on; ``data/alignment.py`` defines and applies it. Crops
that are used whole (``--faces none``) are assumed to have it."""

GRAPH_INPUT = "images"  # uint8[B, S, S, 3] RGB, as decoded
GRAPH_OUTPUTS = ("age_years", "age_low_years", "age_high_years", "female_probability", "age_probabilities")
"""float32[B] each, except ``age_probabilities``: float32[B, 121], absent with a scalar age head."""


def image_keys(content_hashes: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """Keys of images in ``training_images.u64``: the first 8 bytes of the content hash, little-endian.

    Args:
        content_hashes: at least 8 bytes each.

    Returns:
        uint64[N], in the same order.
    """
    return np.frombuffer(b"".join(content[:8] for content in content_hashes), dtype="<u8").astype(np.uint64)


MIN_SPREAD_YEARS = 1.0
"""Lower bound of the estimated spread: labels are whole years."""

PerYear = Annotated[list[float], Field(min_length=AGE_BINS, max_length=AGE_BINS)]


class FaceSizeCalibration(BaseModel):
    """What the predictions for faces of one size are corrected by; the defaults change nothing."""

    model_config = ConfigDict(extra="forbid")

    face_px: Annotated[float, Field(gt=0)]
    """Shorter side of the face's box in pixels of the image that it was found in."""

    age_low_factor: Annotated[float, Field(ge=1)] = 1.0
    """age_years - age_low_years is multiplied by it."""

    age_high_factor: Annotated[float, Field(ge=1)] = 1.0
    """age_high_years - age_years is multiplied by it."""

    gender_shift: float = 0.0
    """Added to the calibrated logit of female: with few pixels one gender is taken for the other more often."""

    gender_temperature: Annotated[float, Field(ge=1)] = 1.0
    """The shifted logit is divided by it."""


class Calibration(BaseModel):
    """Calibration of intervals and probabilities on the validation part.

    The ONNX graph holds all of it but ``by_face_size``: it does not know how large a face was.
    """

    model_config = ConfigDict(extra="forbid")

    gender_temperature: Annotated[float, Field(gt=0)] = 1.0
    """The gender logit is divided by it."""

    interval_coverage: Annotated[float, Field(gt=0, lt=1)] = 0.9
    age_low_factors: PerYear = [0.0] * AGE_BINS
    """By predicted age rounded half up: age_low_years = age_years - factor x spread, not below 0. The spread is the
    standard deviation of the estimated age distribution, at least ``MIN_SPREAD_YEARS``, and 1 for a scalar head."""

    age_high_factors: PerYear = [0.0] * AGE_BINS
    """By predicted age rounded half up: age_high_years = age_years + factor x spread, not above 120."""

    by_face_size: list[FaceSizeCalibration] = []
    """Corrections for small faces, by rising ``face_px``, interpolated in its logarithm; the last one changes nothing, as from
    its size on no pixel is missing. Empty, as in older models: no correction."""


class NetworkConfig(BaseModel):
    """The network's architecture."""

    model_config = ConfigDict(extra="forbid")

    backbone: str
    age_head: Literal["distribution", "scalar"]
    image_size_px: int
    """Side S of the square input image."""

    crop_fraction: float = 1.0
    """Side of the central crop that the backbone sees, as a share of S; the rest is margin."""

    age_readout: Literal["expectation", "median"] = "median"
    """Which statistic of the age distribution is the estimate; the median minimises the mean absolute error."""

    views: Literal[1, 2] = 1
    """2: average the features of the image and its mirror image (test-time augmentation)."""

    @property
    def crop_size_px(self) -> int:
        """Side of the backbone's input; the margin is equally wide on all sides."""
        return self.image_size_px - 2 * round(self.image_size_px * (1 - self.crop_fraction) / 2)

    def for_scoring(self, zoom_min: float) -> "NetworkConfig":
        """The config for scoring with a network that was trained with this one: it also sees half of the margin.

        In training the margin only fills in where images are rotated or shifted. In scoring it shows hair, chin and neck,
        which helps if training has shown faces a little smaller. Source: Touvron et al. (2019), Fixing the train-test
        resolution discrepancy; how much of the margin: docs/accuracy.md.

        Args:
            zoom_min: smallest zoom of training images, which limits how much of the margin is shown; 1: none.
        """
        seen_fraction = min((1 + self.crop_fraction) / 2, self.crop_fraction / zoom_min)
        side = self.crop_size_px + 2 * round(self.crop_size_px * (1 / seen_fraction - 1) / 2)
        return self.model_copy(update={"image_size_px": side, "crop_fraction": self.crop_size_px / side})


MAX_INT8_AGE_LOSS_YEARS = 0.02
MAX_INT8_GENDER_LOSS = 0.001
"""What int8 may cost, in mean absolute error and in the share of right genders, for ``--precision auto`` to take it."""


class Int8Comparison(BaseModel):
    """What the int8 graph says of the validation part, beside the float32 graph."""

    model_config = ConfigDict(extra="forbid")

    images: int
    """Validation images."""

    age_mae_years: float | None
    """Mean absolute error in float32; of a range of ages the distance to it. None: no ages are known."""

    int8_age_mae_years: float | None
    """The same in int8."""

    gender_accuracy: float | None
    """Share of right genders in float32. None: no genders are known."""

    int8_gender_accuracy: float | None
    """The same in int8."""

    age_change_years: float
    """Mean absolute difference of the two ages of an image."""

    genders_changed: int
    """Images with another gender in int8."""

    @property
    def is_close(self) -> bool:
        """Whether int8 costs no more than ``MAX_INT8_AGE_LOSS_YEARS`` and ``MAX_INT8_GENDER_LOSS``; unknown is not close."""
        if self.age_mae_years is None or self.int8_age_mae_years is None:
            return False
        if self.gender_accuracy is None or self.int8_gender_accuracy is None:
            return False
        return (
            self.int8_age_mae_years - self.age_mae_years <= MAX_INT8_AGE_LOSS_YEARS
            and self.gender_accuracy - self.int8_gender_accuracy <= MAX_INT8_GENDER_LOSS
        )


class ModelInfo(BaseModel):
    """The content of ``model.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    model_id: str
    """First 12 hex digits of the SHA-256 of the weights file."""

    network: NetworkConfig
    framing: str = FRAMING
    """Face alignment of the training images; a model with another one than ``FRAMING`` is refused."""

    calibration: Calibration = Calibration()
    split_hash: str = ""
    """SHA-256 over the sorted content hashes and parts of the split it was trained on."""

    config: dict[str, Any] = {}
    """The resolved config of the training run, without settings about where it ran."""

    metrics: dict[str, float] = {}
    """Metrics of the last epoch on the validation part."""

    int8: Int8Comparison | None = None
    """How close the int8 graph is to the float32 graph; None: the model has no int8 graph."""

    files: dict[str, str] = {}
    """File name -> SHA-256, of every other file in the folder."""

    created_by: str = ""
    """Package and version that wrote it."""

    def identity(self, precision: str = "auto") -> dict[str, Any]:
        """What the predictions of the model depend on: its files, and the calibration that no file holds.

        Args:
            precision: of the run, as asked for; one in float32 or bfloat16 does not depend on the int8 graph.
        """
        table = [row.model_dump() for row in self.calibration.by_face_size]
        uses_int8 = precision in ("auto", "int8")
        files = {name: sha256 for name, sha256 in self.files.items() if uses_int8 or name != INT8_GRAPH_FILE}
        return {"model_files": files} | ({"by_face_size": table} if table else {})
