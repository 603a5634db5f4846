"""The predictions of any scorer, and batching with a fixed shape."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agegender.artifact import Calibration
from agegender.schema import AGE_BINS, MAX_AGE_YEARS

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Predictions:
    """Calibrated predictions of N images, in the order of the images."""

    age_years: Floats
    """float32[N], 0-120."""

    age_low_years: Floats
    """float32[N], lower end of the interval."""

    age_high_years: Floats
    """float32[N], upper end of the interval."""

    female_probability: Floats
    """float32[N], calibrated."""

    age_probabilities: Floats | None
    """float32[N, 121], one bin per year from 0; None for a model with a scalar age head."""

    def __len__(self) -> int:
        return len(self.age_years)


def for_face_sizes(predictions: Predictions, face_px: npt.ArrayLike, calibration: Calibration) -> Predictions:
    """Widen the intervals and correct the gender probabilities of small faces; the ages stay as they are.

    Args:
        predictions: of N images, as a scorer gives them.
        face_px: float[N], shorter side of each face's box in pixels.
        calibration: of the model; without ``by_face_size`` the predictions come back as they are.
    """
    sizes_px = np.asarray(face_px, dtype=np.float64)
    table = calibration.by_face_size
    small = np.zeros(len(predictions), dtype=bool) if not table else sizes_px < table[-1].face_px
    if not small.any():
        return predictions
    at, known = np.log(np.maximum(sizes_px[small], 1.0)), np.log([row.face_px for row in table])
    low_factor, high_factor, shift, temperature = (
        np.interp(at, known, [getattr(row, name) for row in table])
        for name in ("age_low_factor", "age_high_factor", "gender_shift", "gender_temperature")
    )
    age, low, high, female = (
        values[small].astype(np.float64)
        for values in (
            predictions.age_years,
            predictions.age_low_years,
            predictions.age_high_years,
            predictions.female_probability,
        )
    )
    with np.errstate(divide="ignore", over="ignore"):  # certainty stays certainty
        logit = (np.log(female) - np.log1p(-female) + shift) / temperature
        corrected = 1 / (1 + np.exp(-logit))
    return replace(
        predictions,
        age_low_years=_put(predictions.age_low_years, small, np.maximum(age - low_factor * (age - low), 0.0)),
        age_high_years=_put(
            predictions.age_high_years, small, np.minimum(age + high_factor * (high - age), float(MAX_AGE_YEARS))
        ),
        female_probability=_put(predictions.female_probability, small, corrected),
    )


def _put(values: Floats, where: npt.NDArray[np.bool_], new: npt.NDArray[np.float64]) -> Floats:
    changed = values.copy()
    changed[where] = new
    return changed


def score_in_batches(
    images: npt.NDArray[np.uint8],
    side_px: int,
    batch_size: int,
    has_distribution: bool,
    run: Callable[[npt.NDArray[np.uint8]], Sequence[Floats]],
) -> Predictions:
    """Score images in padded batches of one shape, so that a result does not depend on the other images.

    Args:
        images: uint8[N, S, S, 3] RGB, N >= 0.
        side_px: S, of the model.
        batch_size: B; the last batch is padded with black images, whose results are dropped.
        has_distribution: whether ``run`` returns age probabilities as its fifth output.
        run: uint8[B, S, S, 3] -> the graph's outputs, float32[B, ...] each.

    Raises:
        ValueError: images of another shape or type.
    """
    if images.dtype != np.uint8 or images.shape[1:] != (side_px, side_px, 3):
        raise ValueError(f"images: {images.dtype}{list(images.shape)}, expected uint8[N, {side_px}, {side_px}, 3]")
    shapes: list[tuple[int, ...]] = [(), (), (), ()] + ([(AGE_BINS,)] if has_distribution else [])
    results = [np.empty((len(images), *shape), np.float32) for shape in shapes]
    for start in range(0, len(images), batch_size):
        part = images[start : start + batch_size]
        count = len(part)
        if count < batch_size:
            part = np.concatenate([part, np.zeros((batch_size - count, *part.shape[1:]), np.uint8)])
        for result, output in zip(results, run(np.ascontiguousarray(part)), strict=True):
            result[start : start + count] = output[:count]
    age, low, high, female = results[:4]
    return Predictions(age, low, high, female, results[4] if has_distribution else None)
