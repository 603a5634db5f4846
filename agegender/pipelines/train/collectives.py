"""Collective operations over the ranks of a training run on Ray Train: sums, means, and whether a rank failed."""

from contextlib import AbstractContextManager, nullcontext

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from agegender.errors import AgegenderError
from agegender.model.loop import Ranks
from agegender.pipelines.train.job import TrainJob


class RayRanks(Ranks):
    """The workers of Ray Train; torch's collectives between them."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()

    def sums(self, values: list[float]) -> list[float]:
        """Element-wise sums over all ranks, in float64."""
        return sum_over_ranks(values)

    @torch.no_grad()
    def average_statistics(self, network: nn.Module) -> None:
        """Average the batch-norm statistics in place."""
        if self.world_size == 1:
            return
        saved = network.state_dict().keys()
        for name, buffer in network.named_buffers():
            if name in saved and buffer.is_floating_point():
                torch.distributed.all_reduce(buffer)
                buffer /= self.world_size

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Torch's wrapper. Batch-norm statistics are averaged at checkpoints: broadcasting them at each step costs more."""
        if self.world_size == 1:
            return network
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)

    def without_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """Skip the all-reduce of gradients."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def sum_over_ranks(values: list[float]) -> list[float]:
    """Element-wise sums over all ranks, in float64; every rank must call it."""
    total = torch.tensor(values, dtype=torch.float64, device=ray.train.torch.get_device())
    torch.distributed.all_reduce(total)
    return [float(value) for value in total.cpu()]


def anyone_failed(job: TrainJob, error: AgegenderError | None) -> bool:
    """Whether any rank has an error that a retry cannot fix; every rank must call it. Sends the error to the driver."""
    if error is not None:
        ray.get(job.monitor.fail.remote(error))
    return sum_over_ranks([float(error is not None)])[0] > 0
