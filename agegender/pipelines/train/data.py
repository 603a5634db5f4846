"""A training worker's images: the train and val part, decoded once per node. Runs in Ray Train workers."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray.train
import torch
import torch.distributed

from agegender.data.cache import GIGABYTE, build_cache, open_cache
from agegender.data.duplicates import content_hash
from agegender.errors import InputError, ResourceError
from agegender.model.batches import Integers, Samples
from agegender.pipelines.source.fetch import fetch, read_unit
from agegender.pipelines.train.job import TrainJob
from agegender.pipelines.train.split import with_source
from agegender.schema import SOURCE
from agegender.storage import tables

logger = logging.getLogger(__name__)

MAX_LOST_FRACTION = 0.05
"""Share of the split's images that may be missing or changed; above it a run is not resumed."""


def train_and_val(job: TrainJob) -> pa.Table:
    """The rows of the split that are decoded, in the order of the cache."""
    split = tables.read_table(job.layout.split).filter(pc.field("part") != "test")
    return with_source(split, job.config)


def decode_images(job: TrainJob) -> None:
    """Decode the images of this node, on its first worker and only once.

    Raises:
        ResourceError: the disk is full, or storage does not answer.
    """
    context = ray.train.get_context()
    if context.get_local_rank() != 0 or job.cache_path.exists():
        return
    rows = train_and_val(job)
    sources = rows[SOURCE.name].to_pylist()
    cutter = job.searches.croppers(job.network.image_size_px)
    build_cache(
        job.cache_path,
        _encoded(job, rows),
        rows.num_rows,
        job.network.image_size_px,
        max_pixels=job.config.max_image_pixels,
        allow_truncated=job.config.allow_truncated,
        threads=job.threads * context.get_local_world_size(),
        cut_of=lambda row: cutter(sources[row]),
        limit_bytes=round(job.config.cache_limit_gb * GIGABYTE),
    )


def _encoded(job: TrainJob, rows: pa.Table) -> Iterator[tuple[int, bytes]]:
    """Row and bytes of each image whose content has not changed since the split."""
    position = {uri: row for row, uri in enumerate(rows["uri"].to_pylist())}
    hashes = rows["content_hash"].to_pylist()
    for unit in job.units:
        listing = read_unit(unit)
        listing = listing.filter(pc.is_in(listing["uri"], value_set=rows["uri"].combine_chunks()))
        if not listing.num_rows:
            continue
        for uri, fetched in zip(listing["uri"].to_pylist(), fetch(listing, job.config), strict=True):
            row = position[uri]
            if fetched.data is not None and content_hash(fetched.data) == hashes[row]:
                yield row, fetched.data


def load_samples(job: TrainJob) -> tuple[Samples, Samples]:
    """Training and validation part, without the images that a node could not decode; all ranks must call it.

    Raises:
        InputError: too many images are missing or changed.
        ResourceError: the decoded images are not on this node.
    """
    images = open_cache(job.cache_path)
    if images is None:
        raise ResourceError(
            f"{job.cache_path}: the decoded images were deleted while in use: run the same command again"
        )
    rows = train_and_val(job)
    usable = _usable_everywhere(images.usable)
    lost = int((~usable).sum())
    if lost:
        logger.warning(
            "%d of %d images are missing or changed since the split; training continues without them",
            lost,
            len(usable),
        )
    if lost > MAX_LOST_FRACTION * len(usable):
        raise InputError(
            f"{lost} of {len(usable)} images of {', '.join(job.config.input)} are missing or changed since the split: "
            "restore them, or train into another --output"
        )
    parts = np.array(rows["part"].to_pylist())
    age = rows["age_years"].to_numpy(zero_copy_only=False).astype(np.float32)
    gender = rows["gender"].fill_null(-1).to_numpy().astype(np.int64)
    ranges = _ranges(rows)
    names = [source.name for source in job.config.sources()]
    sources = np.array([names.index(name) for name in rows[SOURCE.name].to_pylist()], dtype=np.int64)
    rows_by_part = (np.flatnonzero(usable & (parts == part)) for part in ("train", "val"))
    train, val = (
        Samples(
            images.pixels,
            *(index, age[index], gender[index]),
            age_ranges=None if ranges is None else ranges[index],
            sources=sources[index],
        )
        for index in rows_by_part
    )
    return replace(train, weights=_weights(job, train.sources)), val


def _weights(job: TrainJob, sources: Integers | None) -> npt.NDArray[np.float32] | None:
    """The weight of each training image in the loss, float32[N]; None if all are 1."""
    by_source = np.array([source.weight for source in job.config.sources()], dtype=np.float32)
    return None if sources is None or (by_source == 1).all() else by_source[sources]


def _ranges(rows: pa.Table) -> np.ndarray[tuple[int, int], np.dtype[np.float32]] | None:
    """First and last year of each range of ages, float32[N, 2], NaN where there is none; None without any."""
    low, high = (rows[f"age_{end}_years"].to_numpy(zero_copy_only=False).astype(np.float32) for end in ("low", "high"))
    ranged = np.isfinite(low) & (low < high)
    if not ranged.any():
        return None
    return np.where(ranged[:, None], np.stack([low, high], axis=1), np.float32(np.nan))


def _usable_everywhere(
    usable: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Images that every node could decode: all ranks must use the same ones, or their batches would differ."""
    if torch.distributed.get_world_size() == 1:
        return usable
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    agreed = torch.from_numpy(usable.astype(np.uint8)).to(device)
    torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
    return agreed.cpu().numpy().astype(np.bool_)
