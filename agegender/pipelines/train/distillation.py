"""Teachers of a training run: checked and copied by the driver, asked once on each node."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray.train
import ray.train.collective
import torch

from agegender.data.cache import TAUGHT_SUFFIX
from agegender.model.batches import Samples
from agegender.model.checkpoint import load_network
from agegender.model.teaching import TAUGHT_COLUMNS, teach
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.train.job import TrainJob

logger = logging.getLogger(__name__)


def with_teaching(job: TrainJob, train: Samples, device: torch.device) -> Samples:
    """The training part with what the teachers say of it, if there are any; all ranks must call it."""
    if not job.teachers:
        return train
    path = job.cache_path.with_suffix(TAUGHT_SUFFIX)
    if ray.train.get_context().get_local_rank() == 0 and not path.exists():
        _ask(job, train, device, path)
    ray.train.collective.barrier()  # without a time limit, other than torch's: it may take minutes
    return replace(train, taught=np.load(path, mmap_mode="r"))


def _ask(job: TrainJob, train: Samples, device: torch.device, path: Path) -> None:
    networks = [load_network(localize_model(teacher).folder)[0].to(device) for teacher in job.teachers]
    partial = path.with_suffix(".part")  # which make_room takes for abandoned after a while
    # mapped, as the images are: 244 bytes each would be too much to hold
    said = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=(len(train), TAUGHT_COLUMNS))
    done = 0
    for rows in teach(networks, train, device):
        said[done : done + len(rows)] = rows
        done += len(rows)
    del said  # writes what is still in memory
    partial.replace(path)
    logger.info("%d teachers were asked about %d training images", len(networks), done)
