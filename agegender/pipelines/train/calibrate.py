"""Calibrate a trained network on the validation part: on whole crops, then on small faces."""

import numpy as np
import torch

from agegender.artifact import Calibration
from agegender.data.corruptions import with_face_px
from agegender.data.face_quality import FACE_SHARE_OF_CROP
from agegender.data.images import resize
from agegender.evaluation.conformal import calibration_ages, fit_calibration
from agegender.evaluation.small_faces import IMAGES, LARGEST_SHARE, SIZES_PX, SizedEstimates, fit_by_face_size, interval
from agegender.model import trainer
from agegender.model.batches import Integers, Samples
from agegender.model.network import FaceNetwork
from agegender.model.trainer import Estimates
from agegender.recipe import Recipe

BATCH_IMAGES = 256
"""Images that are reduced at once: a network may take 512 x 512 pixels of each."""


def calibrate(
    network: FaceNetwork, val: Samples, recipe: Recipe, device: torch.device
) -> tuple[Calibration, Estimates]:
    """Fit the calibration of a network.

    Args:
        network: with the weights that are saved.
        val: the validation part.
        recipe: of the training.
        device: of the network.

    Returns:
        The calibration, and the estimates for each validation image.
    """
    estimates, _ = trainer.evaluate(network, val, np.arange(len(val)), recipe, device)
    calibration = fit_calibration(
        calibration_ages(val.age_years, val.age_ranges, estimates.age_years),
        *(estimates.age_years, estimates.age_spread_years, val.gender, estimates.gender_logit),
    )
    whole_face_px = FACE_SHARE_OF_CROP * network.config.image_size_px
    chosen = np.sort(np.random.default_rng(recipe.seed).permutation(len(val))[:IMAGES])
    ages, genders = val.age_years[chosen], val.gender[chosen]
    ranges = None if val.age_ranges is None else val.age_ranges[chosen]
    by_face_px = {}
    for face_px in (size for size in SIZES_PX if size <= LARGEST_SHARE * whole_face_px):
        reduced = _of_small_faces(network, val, chosen, face_px, recipe, device)
        by_face_px[float(face_px)] = SizedEstimates(
            calibration_ages(ages, ranges, reduced.age_years),
            reduced.age_years,
            *interval(calibration, reduced.age_years, reduced.age_spread_years),
            genders,
            reduced.gender_logit / calibration.gender_temperature,
        )
    table = fit_by_face_size(by_face_px, whole_face_px, calibration.interval_coverage)
    return calibration.model_copy(update={"by_face_size": table}), estimates


def _of_small_faces(
    network: FaceNetwork, val: Samples, chosen: Integers, face_px: float, recipe: Recipe, device: torch.device
) -> Estimates:
    """The estimates for some validation images whose faces are reduced to one size."""
    parts = []
    for start in range(0, len(chosen), BATCH_IMAGES):
        rows = val.rows[chosen[start : start + BATCH_IMAGES]]
        crops = [with_face_px(resize(val.pixels[row], network.config.image_size_px), face_px) for row in rows]
        unlabelled = Samples(
            np.stack(crops), np.arange(len(rows)), np.full(len(rows), np.nan, np.float32), 0 * rows - 1
        )
        parts.append(trainer.evaluate(network, unlabelled, unlabelled.rows, recipe, device)[0])
    return Estimates(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
