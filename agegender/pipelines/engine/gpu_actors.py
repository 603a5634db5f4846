"""The GPUs of a predict run: an actor on each scores the batches of the decoding processes.

    decode on CPUs -> uint8 batches -> GpuActor: pinned memory, device, bfloat16 -> predictions -> the decoder stages its unit

A decoder continues decoding while its batches are scored. How many decoders a GPU needs depends on the images, so the GPUs'
utilization is measured: more decoders are started while GPUs are idle part of the time.
"""

import itertools
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayActorError

from agegender.errors import ConfigError, ResourceError
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.runtime.placement import Placement
from agegender.pipelines.runtime.session import cluster_address
from agegender.scoring.predictions import Predictions

if TYPE_CHECKING:
    from agegender.scoring.gpu import TorchScorer

logger = logging.getLogger(__name__)

RESOURCE = "GPU"
DEVICE = "cuda"
"""Tests replace both by the CPU and a resource that every head node has."""

CALLS_AT_ONCE = 4
"""Per GPU: one batch is scored, the next is transferred, and one call can query the utilization."""

RESTARTS = 3
DECODERS_AT_FIRST = 2
BUSY_ENOUGH = 0.9


class GpuActor:
    """One GPU with the model loaded once.

    Args:
        model_uri: trained model.
        batch_size: images per forward pass.
        device: torch's name of the device.
    """

    def __init__(self, model_uri: str, batch_size: int, device: str) -> None:
        self._model_uri, self._batch_size, self._device = model_uri, batch_size, device
        self._lock, self._active = threading.Lock(), 0
        self._busy_s = 0.0
        self._since_s = self._measured_s = time.monotonic()

    @cached_property
    def _scorer(self) -> "TorchScorer":
        """Loaded by the first call, so that an error is raised there."""
        from agegender.scoring.gpu import TorchScorer  # imports torch, which the driver does not need

        return TorchScorer(localize_model(self._model_uri), self._device, self._batch_size)

    def score(self, images: npt.NDArray[np.uint8]) -> Predictions:
        """As ``TorchScorer.score``; several calls may be in flight."""
        with self._lock:
            scorer = self._scorer
            self._count(+1)
        try:
            return scorer.score(images)
        finally:
            with self._lock:
                self._count(-1)

    def busy_share(self) -> float:
        """Share of the time since the last call during which the GPU was scoring, 0-1."""
        with self._lock:
            self._count(0)
            now_s = time.monotonic()
            share = self._busy_s / max(now_s - self._measured_s, 1e-9)
            self._busy_s, self._measured_s = 0.0, now_s
            return share

    def _count(self, change: int) -> None:
        now_s = time.monotonic()
        if self._active:
            self._busy_s += now_s - self._since_s
        self._active, self._since_s = self._active + change, now_s


@dataclass(frozen=True)
class GpuSubmit:
    """Factory, for decoding processes, of a ``Submit`` that sends batches to the GPUs round-robin.

    Args:
        gpus: handles of ``GpuActor``.
    """

    gpus: list[Any]

    def __call__(self) -> Callable[[npt.NDArray[np.uint8]], Callable[[], Predictions]]:
        """Create the ``Submit`` function of this process."""
        return _GpuScorer(self.gpus).submit


class _GpuScorer:
    def __init__(self, gpus: list[Any]) -> None:
        self._round_robin = itertools.cycle(gpus)

    def submit(self, images: npt.NDArray[np.uint8]) -> Callable[[], Predictions]:
        """Send a batch; the returned function raises ResourceError if the GPU actor died too often."""
        future = next(self._round_robin).score.remote(images)

        def wait() -> Predictions:
            try:
                predictions: Predictions = ray.get(future)
            except RayActorError as death:
                raise ResourceError(f"the process that scores on a GPU ended {RESTARTS + 1} times: {death}") from death
            return predictions

        return wait


def start_gpus(model_uri: str, batch_size: int, placement: Placement) -> list[Any]:
    """Start an actor for each GPU of the cluster; needs a running Ray.

    Args:
        model_uri: trained model.
        batch_size: images per forward pass.
        placement: where the actors may run.

    Raises:
        ConfigError: no GPU, and a local Ray cannot get one.
    """
    count = int(ray.cluster_resources().get(RESOURCE, 0))
    if not count:
        if cluster_address(placement.cluster.address) is None:
            raise ConfigError("--use-gpu: Ray sees no GPU here; leave it out to score on CPUs, or check nvidia-smi")
        logger.warning("--use-gpu: the cluster has no GPU yet; waiting for it to grow")
    options: dict[str, Any] = {"num_gpus": 1} if RESOURCE == "GPU" else {"resources": {RESOURCE: 1}}
    actor = ray.remote(GpuActor).options(
        num_cpus=0,
        max_concurrency=CALLS_AT_ONCE,
        max_restarts=RESTARTS,
        max_task_retries=RESTARTS,
        **options,
        **placement.options(),
    )
    return [actor.remote(model_uri, batch_size, DEVICE) for _ in range(max(1, count))]


def stop_gpus(gpus: list[Any]) -> None:
    """Kill the actors of ``start_gpus``."""
    for gpu in gpus:
        ray.kill(gpu)


class DecoderTarget:
    """Target number of decoders that keep the GPUs busy; it never decreases except with the capacity.

    Args:
        gpus: handles of ``GpuActor``.
        capacity: gives how many decoders the cluster can run now.
    """

    def __init__(self, gpus: list[Any], capacity: Callable[[], int]) -> None:
        self._gpus, self._capacity = gpus, capacity
        self._target = DECODERS_AT_FIRST * len(gpus)

    def __call__(self) -> int:
        """Update the target from the GPUs' utilization since the last call, ignoring GPU actors that are not ready."""
        ready, _ = ray.wait([gpu.busy_share.remote() for gpu in self._gpus], num_returns=len(self._gpus), timeout=1.0)
        if ready:
            self._target = target_decoders(self._target, float(np.mean(ray.get(ready))), self._capacity())
        return min(self._target, self._capacity())


def target_decoders(decoders: int, busy_share: float, capacity: int) -> int:
    """Number of decoders that would keep the GPUs busy, at most twice as many as now.

    Args:
        decoders: current number.
        busy_share: of the GPUs with that number, 0-1.
        capacity: how many decoders the cluster can run.
    """
    if busy_share == 0 or busy_share >= BUSY_ENOUGH:  # 0: nothing was scored yet
        return decoders
    target = min(capacity, math.ceil(decoders * min(2.0, 1 / busy_share)))
    if target > decoders:
        logger.info("the GPUs are busy for %.0f %% of the time: decoding in %d processes", 100 * busy_share, target)
    return max(decoders, target)
