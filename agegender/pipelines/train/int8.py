"""Add the int8 graph to a model folder, and measure on the validation part what it costs."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agegender.artifact import GRAPH_FILE, INT8_GRAPH_FILE, Int8Comparison, ModelInfo
from agegender.data.images import resize
from agegender.model.batches import Samples
from agegender.model.checkpoint import save_info
from agegender.model.network import OWN_BACKBONES
from agegender.model.quantization import quantize_graph
from agegender.schema import age_end_years
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.load import LocalModel, open_model
from agegender.scoring.predictions import Predictions

logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 512
"""Training images that say how large the values of each feature map become."""

BATCH_IMAGES = 64


def has_int8(backbone: str) -> bool:
    """Whether models of a backbone get an int8 graph: the package's own, since torchvision's were not measured."""
    return backbone in OWN_BACKBONES


def sample_for_int8(train: Samples, side_px: int, seed: int) -> npt.NDArray[np.uint8]:
    """At most ``CALIBRATION_IMAGES`` training images, drawn by the seed: uint8[N, S, S, 3]."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train))[:CALIBRATION_IMAGES])
    return np.stack([resize(train.pixels[row], side_px) for row in train.rows[chosen]])


def add_int8(folder: Path, calibration_images: npt.NDArray[np.uint8], val: Samples) -> ModelInfo:
    """Write the int8 graph of a model folder, compare it with the float32 graph, and record both in model.json.

    Args:
        folder: of a whole model; an older int8 graph in it is replaced.
        calibration_images: uint8[N, S, S, 3] RGB of the training part, S as the model takes it.
        val: the validation part; images are resized to the model's size.

    Returns:
        The new content of model.json.

    Raises:
        InputError: the model is missing or damaged.
        ValueError: no calibration image, or a network without convolutions.
    """
    info = open_model(folder)
    files = {name: sha256 for name, sha256 in info.files.items() if name != INT8_GRAPH_FILE}
    # first without the graph, so that the folder is valid at any time
    save_info(folder, info.model_copy(update={"files": files, "int8": None}))
    path = folder / INT8_GRAPH_FILE
    quantize_graph(folder / GRAPH_FILE, calibration_images, path)
    files[INT8_GRAPH_FILE] = hashlib.sha256(path.read_bytes()).hexdigest()
    info = info.model_copy(update={"files": files, "int8": None})
    comparison = compare(LocalModel(folder, info), val)
    logger.info(
        "int8 changes ages by %.3f years on average and the gender of %d of %d validation images; --precision auto %s it",
        *(comparison.age_change_years, comparison.genders_changed, comparison.images),
        "may take" if comparison.is_close else "does not take",
    )
    info = info.model_copy(update={"int8": comparison})
    save_info(folder, info)
    return info


def compare(model: LocalModel, val: Samples) -> Int8Comparison:
    """Score the validation part with both graphs of a model.

    Args:
        model: with an int8 graph.
        val: at least one image.
    """
    exact, quick = (_score(CpuScorer(model, batch_size=BATCH_IMAGES, precision=p), val) for p in ("float32", "int8"))
    age_mae_years, int8_age_mae_years = (_age_mae_years(each.age_years, val) for each in (exact, quick))
    genders, int8_genders = (each.female_probability >= 0.5 for each in (exact, quick))
    gender_accuracy, int8_gender_accuracy = (_gender_accuracy(each, val) for each in (genders, int8_genders))
    return Int8Comparison(
        images=len(val),
        age_mae_years=age_mae_years,
        int8_age_mae_years=int8_age_mae_years,
        gender_accuracy=gender_accuracy,
        int8_gender_accuracy=int8_gender_accuracy,
        age_change_years=float(np.abs(exact.age_years - quick.age_years).mean()),
        genders_changed=int((genders != int8_genders).sum()),
    )


def _score(scorer: CpuScorer, val: Samples) -> Predictions:
    parts = []
    for start in range(0, len(val), BATCH_IMAGES):
        rows = val.rows[start : start + BATCH_IMAGES]
        parts.append(scorer.score(np.stack([resize(val.pixels[row], scorer.image_size_px) for row in rows])))
    names = ("age_years", "age_low_years", "age_high_years", "female_probability")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Predictions(**columns, age_probabilities=None)


def _age_mae_years(age_years: npt.NDArray[np.float32], val: Samples) -> float | None:
    """Mean absolute error over exact ages and, as the distance to them, ranges of ages."""
    estimate = age_years.astype(np.float64)
    nearest = val.age_years.astype(np.float64)
    if val.age_ranges is not None:
        low, high = val.age_ranges.astype(np.float64).T
        nearest = np.where(np.isnan(low), nearest, np.clip(estimate, low, age_end_years(low, high)))
    errors = np.abs(estimate - nearest)[val.age_known]
    return float(errors.mean()) if len(errors) else None


def _gender_accuracy(is_female: npt.NDArray[np.bool_], val: Samples) -> float | None:
    known = val.gender >= 0
    return float((is_female[known] == (val.gender[known] == 1)).mean()) if known.any() else None
