"""Rows of a split and their decoded images -> the training and the validation part, as arrays. No Ray."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from agegender.errors import InputError
from agegender.model.batches import Samples
from agegender.option_groups import Source
from agegender.schema import SOURCE
from agegender.training_config import TrainConfig

logger = logging.getLogger(__name__)

MAX_LOST_FRACTION = 0.05
"""Share of the split's images that may be missing or changed; above it a run is not resumed."""


def train_and_val(split: pa.Table) -> pa.Table:
    """The rows of the split that are decoded, in the order of the cache."""
    return split.filter(pc.field("part") != "test")


def check_lost(config: TrainConfig, usable: npt.NDArray[np.bool_]) -> None:
    """Warn of images that are missing or changed since the split.

    Args:
        config: names the sources.
        usable: bool[N], images that were decoded.

    Raises:
        InputError: too many are.
    """
    lost = int((~usable).sum())
    if lost:
        logger.warning(
            "%d of %d images are missing or changed since the split; training continues without them",
            lost,
            len(usable),
        )
    if lost > MAX_LOST_FRACTION * len(usable):
        raise InputError(
            f"{lost} of {len(usable)} images of {', '.join(config.input)} are missing or changed since the split: "
            "restore them, or train into another --output"
        )


def samples_of(
    rows: pa.Table, pixels: npt.NDArray[np.uint8], usable: npt.NDArray[np.bool_], sources: Sequence[Source]
) -> tuple[Samples, Samples]:
    """Training and validation part.

    Args:
        rows: N rows of the split, without the test part; columns ``part``, ``schema.LABEL_FIELDS`` and ``source``.
        pixels: uint8[N, S, S, 3], in the same order.
        usable: bool[N], images that both parts are made of.
        sources: of the rows; their weights are those of the training images.
    """
    parts = np.array(rows["part"].to_pylist())
    age = rows["age_years"].to_numpy(zero_copy_only=False).astype(np.float32)
    gender = rows["gender"].fill_null(-1).to_numpy().astype(np.int64)
    ranges = _ranges(rows)
    names = [source.name for source in sources]
    of_source = np.array([names.index(name) for name in rows[SOURCE.name].to_pylist()], dtype=np.int64)
    rows_by_part = (np.flatnonzero(usable & (parts == part)) for part in ("train", "val"))
    train, val = (
        Samples(
            *(pixels, index, age[index], gender[index]),
            age_ranges=None if ranges is None else ranges[index],
            sources=of_source[index],
        )
        for index in rows_by_part
    )
    weights = np.array([source.weight for source in sources], dtype=np.float32)
    if (weights == 1).all():
        return train, val
    return replace(train, weights=weights[train.sources]), val


def _ranges(rows: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | None:
    """First and last year of each range of ages, float32[N, 2], NaN where there is none; None without any."""
    low, high = (rows[f"age_{end}_years"].to_numpy(zero_copy_only=False).astype(np.float32) for end in ("low", "high"))
    ranged = np.isfinite(low) & (low < high)
    if not ranged.any():
        return None
    return np.where(ranged[:, None], np.stack([low, high], axis=1), np.float32(np.nan))
