"""A training worker's images: the train and val part, decoded once per node. Runs in Ray Train workers."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.train
import torch
import torch.distributed

from agegender.data.cache import GIGABYTE, build_cache, open_cache
from agegender.data.duplicates import content_hash
from agegender.errors import ResourceError
from agegender.model.batches import Samples
from agegender.pipelines.source.fetch import fetch, read_unit
from agegender.pipelines.train.job import TrainJob
from agegender.pipelines.train.samples import check_lost, samples_of, train_and_val
from agegender.pipelines.train.split import with_source
from agegender.schema import SOURCE
from agegender.storage import tables


def decode_images(job: TrainJob) -> None:
    """Decode the images of this node, on its first worker and only once.

    Raises:
        ResourceError: the disk is full, or storage does not answer.
    """
    context = ray.train.get_context()
    if context.get_local_rank() == 0 and not job.cache_path.exists():
        build_split_cache(job, job.threads * context.get_local_world_size())


def build_split_cache(job: TrainJob, threads: int) -> None:
    """Decode the train and val part into ``cache_path`` of this machine.

    Args:
        job: of the training.
        threads: of decoding.

    Raises:
        ResourceError: the disk is full, or storage does not answer.
    """
    rows = _rows(job)
    sources = rows[SOURCE.name].to_pylist()
    cutter = job.searches.croppers(job.network.image_size_px)
    build_cache(
        job.cache_path,
        _encoded(job, rows),
        rows.num_rows,
        job.network.image_size_px,
        max_pixels=job.config.max_image_pixels,
        allow_truncated=job.config.allow_truncated,
        threads=threads,
        cut_of=lambda row: cutter(sources[row]),
        limit_bytes=round(job.config.cache_limit_gb * GIGABYTE),
    )


def _rows(job: TrainJob) -> pa.Table:
    return train_and_val(with_source(tables.read_table(job.layout.split), job.config))


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
    usable = _usable_everywhere(images.usable)
    check_lost(job.config, usable)
    return samples_of(_rows(job), images.pixels, usable, job.config.sources())


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
