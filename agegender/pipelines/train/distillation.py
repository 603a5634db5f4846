"""Distillation: the teachers' soft targets of the training images, computed once on each node."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray.train
import ray.train.collective
import torch

from agegender.data.cache import SOFT_TARGETS_SUFFIX
from agegender.model.batches import Samples
from agegender.model.checkpoint import load_network
from agegender.model.distillation import SOFT_TARGET_COLUMNS, teacher_predict
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.train.job import TrainJob

logger = logging.getLogger(__name__)


def with_soft_targets(job: TrainJob, train: Samples, device: torch.device) -> Samples:
    """Add the teachers' soft targets, if there are teachers, to the training part; all ranks must call it."""
    if not job.teachers:
        return train
    path = job.cache_path.with_suffix(SOFT_TARGETS_SUFFIX)
    if ray.train.get_context().get_local_rank() == 0 and not path.exists():
        _write_soft_targets(job, train, device, path)
    ray.train.collective.barrier()  # has no timeout, unlike torch's barrier: inference may take minutes
    return replace(train, soft_targets=np.load(path, mmap_mode="r"))


def _write_soft_targets(job: TrainJob, train: Samples, device: torch.device, path: Path) -> None:
    networks = [load_network(localize_model(teacher).folder)[0].to(device) for teacher in job.teachers]
    partial = path.with_suffix(".part")  # make_room treats an old .part file as abandoned
    # memory-mapped like the images: 244 bytes per image may not fit in memory
    soft_targets = np.lib.format.open_memmap(
        partial, mode="w+", dtype=np.float16, shape=(len(train), SOFT_TARGET_COLUMNS)
    )
    done = 0
    for rows in teacher_predict(networks, train, device):
        soft_targets[done : done + len(rows)] = rows
        done += len(rows)
    del soft_targets  # flushes to disk
    partial.replace(path)
    logger.info("computed soft targets of %d training images with %d teachers", done, len(networks))
