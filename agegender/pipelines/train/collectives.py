"""Collective operations over the ranks of a training run: sums, means, and whether a rank failed."""

import ray
import ray.train.torch
import torch
import torch.distributed
from torch import nn

from agegender.errors import AgegenderError
from agegender.model.trainer import Tally
from agegender.pipelines.train.epoch_sums import TALLIED
from agegender.pipelines.train.job import TrainJob


def sum_over_ranks(values: list[float]) -> list[float]:
    """Element-wise sums over all ranks, in float64; every rank must call it."""
    total = torch.tensor(values, dtype=torch.float64, device=ray.train.torch.get_device())
    torch.distributed.all_reduce(total)
    return [float(value) for value in total.cpu()]


def tally_over_ranks(tally: Tally) -> Tally:
    """The sums of all ranks added up; every rank must call it."""
    mine = [sums.get(name, 0.0) for sums in (tally.sums, tally.counts) for name in TALLIED]
    total = sum_over_ranks(mine)
    sums, counts = total[: len(TALLIED)], total[len(TALLIED) :]
    return Tally(dict(zip(TALLIED, sums, strict=True)), dict(zip(TALLIED, counts, strict=True)))


@torch.no_grad()
def average_statistics(network: nn.Module, world_size: int) -> None:
    """Average the batch-norm statistics, which each rank has over its own images, over the ranks; every rank must call it."""
    if world_size == 1:
        return
    saved = network.state_dict().keys()
    for name, buffer in network.named_buffers():
        if name in saved and buffer.is_floating_point():
            torch.distributed.all_reduce(buffer)
            buffer /= world_size


def anyone_failed(job: TrainJob, error: AgegenderError | None) -> bool:
    """Whether any rank has an error that a retry cannot fix; every rank must call it. Sends the error to the driver."""
    if error is not None:
        ray.get(job.monitor.fail.remote(error))
    return sum_over_ranks([float(error is not None)])[0] > 0
