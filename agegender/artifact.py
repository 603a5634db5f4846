"""What a trained model is on disk: the files of its folder and the schema of ``model.json``.

A model is a folder::

    weights.safetensors      the averaged weights, filters and matrices as float16
    model.onnx               network + pre-processing + calibration in one graph, what CPUs score with
    training_images.u64      sorted little-endian uint64: first 8 bytes of the content hash of each image that shaped it
    calibration_images.u64   those of them that it was calibrated on and did not learn from; may be absent
    model.json               ``ModelInfo``: architecture, calibration, metrics, and the SHA-256 of the files beside it

Pure: reading and checking a folder is ``scoring.load``, writing one is ``model.checkpoint``.
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
TRAINING_IMAGES_FILE = "training_images.u64"
CALIBRATION_IMAGES_FILE = "calibration_images.u64"
INFO_FILE = "model.json"

FRAMING = "utkface-chip-1"
"""Name of the framing that this release's models learn and that ``data/faces.py`` cuts, which says what it is. Crops that
are taken whole (``--faces none``) have it as they come."""

GRAPH_INPUT = "images"  # uint8[B, S, S, 3] RGB, as a decoder gives them
GRAPH_OUTPUTS = ("age_years", "age_low_years", "age_high_years", "female_probability", "age_probabilities")
"""float32[B] each, but the last float32[B, 121]; a scalar age head's graph has no ``age_probabilities``."""


def image_keys(content_hashes: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """What ``training_images.u64`` knows an image by: the first 8 bytes of its content hash, little-endian.

    Args:
        content_hashes: at least 8 bytes each.

    Returns:
        uint64[N], in the order given.
    """
    return np.frombuffer(b"".join(content[:8] for content in content_hashes), dtype="<u8").astype(np.uint64)


MIN_SPREAD_YEARS = 1.0
"""Ages are whole years: nobody knows them better."""

PerYear = Annotated[list[float], Field(min_length=AGE_BINS, max_length=AGE_BINS)]


class Calibration(BaseModel):
    """What validation taught about the network's certainty; all of it is inside the ONNX graph."""

    model_config = ConfigDict(extra="forbid")

    gender_temperature: Annotated[float, Field(gt=0)] = 1.0
    """The gender logit is divided by it."""

    interval_coverage: Annotated[float, Field(gt=0, lt=1)] = 0.9
    age_low_factors: PerYear = [0.0] * AGE_BINS
    """By predicted age rounded half up: age_low_years = age_years - factor x spread, not below 0. The spread is the
    standard deviation of the estimated age distribution, at least ``MIN_SPREAD_YEARS``, and 1 for a scalar head."""

    age_high_factors: PerYear = [0.0] * AGE_BINS
    """By predicted age rounded half up: age_high_years = age_years + factor x spread, not above 120."""


class NetworkConfig(BaseModel):
    """Everything that rebuilds the network's shape."""

    model_config = ConfigDict(extra="forbid")

    backbone: str
    age_head: Literal["distribution", "scalar"]
    image_size_px: int
    """Side S of the square image that the network takes."""

    crop_fraction: float = 1.0
    """Side of its middle that the backbone sees, as a share of S; what is around it is margin."""

    age_readout: Literal["expectation", "median"] = "median"
    """Of the estimated age distribution, which number is the estimate; the median has the smallest mean absolute error."""

    views: Literal[1, 2] = 1
    """2: an estimate is made from the image and its mirror image together, by the mean of their features."""

    @property
    def crop_size_px(self) -> int:
        """Side of what the backbone sees; the margin is equally wide on all sides."""
        return self.image_size_px - 2 * round(self.image_size_px * (1 - self.crop_fraction) / 2)

    def for_scoring(self, zoom_min: float) -> "NetworkConfig":
        """What a network that was trained like this takes afterwards: half of the margin is in sight, too.

        In training the margin is what turned and shifted images draw on. Afterwards it tells of hair, chin and neck, and
        where training has shown faces a little smaller, they are read better so. Source: Touvron et al. (2019), Fixing the
        train-test resolution discrepancy; how much of the margin: docs/accuracy.md.

        Args:
            zoom_min: smallest zoom of training images, which showed no more than that; 1: the middle alone.
        """
        seen_fraction = min((1 + self.crop_fraction) / 2, self.crop_fraction / zoom_min)
        side = self.crop_size_px + 2 * round(self.crop_size_px * (1 / seen_fraction - 1) / 2)
        return self.model_copy(update={"image_size_px": side, "crop_fraction": self.crop_size_px / side})


class ModelInfo(BaseModel):
    """The content of ``model.json``."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = FORMAT_VERSION
    model_id: str
    """First 12 hex digits of the SHA-256 of the weights file."""

    network: NetworkConfig
    framing: str = FRAMING
    """Where a face stands in the square that the network sees; a model that learnt another than ``FRAMING`` is refused."""

    calibration: Calibration = Calibration()
    split_hash: str = ""
    """SHA-256 over the sorted content hashes and parts of the split it was trained on."""

    config: dict[str, Any] = {}
    """The resolved config of the training run, less where it ran."""

    metrics: dict[str, float] = {}
    """Of the kept epoch on the validation part."""

    files: dict[str, str] = {}
    """File name -> SHA-256, of every other file in the folder."""

    created_by: str = ""
    """Package and version that wrote it."""
