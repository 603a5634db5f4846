"""The predictions of any scorer, and batching with a fixed shape."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agegender.schema import AGE_BINS

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
