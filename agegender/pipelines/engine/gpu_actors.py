"""The GPUs of a predict run: an actor on each scores what the decoding processes send it.

    decode on CPUs -> uint8 batches -> GpuActor: pinned memory, device, bfloat16 -> predictions -> the decoder stages its unit

A decoder goes on decoding while its batches are scored. How many decoders a GPU needs depends on the images, so that is
measured: while the GPUs have time to spare, more are started.
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
"""The tests put the CPU and a resource that every head has in their place."""

CALLS_AT_ONCE = 4
"""Of one GPU: while one batch is scored the next is pinned and on its way, and there is one to ask how busy it is."""

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
        self._since_s = self._asked_s = time.monotonic()

    @cached_property
    def _scorer(self) -> "TorchScorer":
        """Loaded with the first call, whose error it then is."""
        from agegender.scoring.gpu import TorchScorer  # torch, which nobody else here needs

        return TorchScorer(localize_model(self._model_uri), self._device, self._batch_size)

    def score(self, images: npt.NDArray[np.uint8]) -> Predictions:
        """As ``TorchScorer.score``; several calls may be under way."""
        with self._lock:
            scorer = self._scorer
            self._count(+1)
        try:
            return scorer.score(images)
        finally:
            with self._lock:
                self._count(-1)

    def busy_share(self) -> float:
        """Share of the time since this was last asked in which something was being scored, 0-1."""
        with self._lock:
            self._count(0)
            now_s = time.monotonic()
            share = self._busy_s / max(now_s - self._asked_s, 1e-9)
            self._busy_s, self._asked_s = 0.0, now_s
            return share

    def _count(self, change: int) -> None:
        now_s = time.monotonic()
        if self._active:
            self._busy_s += now_s - self._since_s
        self._active, self._since_s = self._active + change, now_s


@dataclass(frozen=True)
class GpuSubmit:
    """Makes, in a process that decodes, what sends its batches to the GPUs in turn.

    Args:
        gpus: handles of ``GpuActor``.
    """

    gpus: list[Any]

    def __call__(self) -> Callable[[npt.NDArray[np.uint8]], Callable[[], Predictions]]:
        """What takes a batch, uint8[N, S, S, 3], and gives what waits for its predictions."""
        return _GpuScorer(self.gpus).submit


class _GpuScorer:
    def __init__(self, gpus: list[Any]) -> None:
        self._turns = itertools.cycle(gpus)

    def submit(self, images: npt.NDArray[np.uint8]) -> Callable[[], Predictions]:
        """Send a batch; the result raises ResourceError where the process on the GPU has ended too often."""
        answer = next(self._turns).score.remote(images)

        def fetched() -> Predictions:
            try:
                said: Predictions = ray.get(answer)
            except RayActorError as death:
                raise ResourceError(f"the process that scores on a GPU ended {RESTARTS + 1} times: {death}") from death
            return said

        return fetched


def start_gpus(model_uri: str, batch_size: int, placement: Placement) -> list[Any]:
    """An actor for each GPU of the cluster; needs a running Ray.

    Args:
        model_uri: trained model.
        batch_size: images per forward pass.
        placement: where the actors may run.

    Raises:
        ConfigError: no GPU, and a Ray of our own will not get one.
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
    """End the actors of ``start_gpus``."""
    for gpu in gpus:
        ray.kill(gpu)


class DecodersWanted:
    """How many decoders keep the GPUs busy; never fewer than before, and no more than there is room for.

    Args:
        gpus: handles of ``GpuActor``.
        room: how many decoders there is room for now.
    """

    def __init__(self, gpus: list[Any], room: Callable[[], int]) -> None:
        self._gpus, self._room = gpus, room
        self._wanted = DECODERS_AT_FIRST * len(gpus)

    def __call__(self) -> int:
        """Ask the GPUs how busy they were since the last time, without waiting for one that is not up yet."""
        answers, _ = ray.wait([gpu.busy_share.remote() for gpu in self._gpus], num_returns=len(self._gpus), timeout=1.0)
        if answers:
            self._wanted = wanted_decoders(self._wanted, float(np.mean(ray.get(answers))), self._room())
        return min(self._wanted, self._room())


def wanted_decoders(decoders: int, busy_share: float, room: int) -> int:
    """How many decoders would keep GPUs busy that so many kept busy for a share of the time, at most twice as many.

    Args:
        decoders: that there were.
        busy_share: of the GPUs, 0-1.
        room: how many there is room for.
    """
    if busy_share == 0 or busy_share >= BUSY_ENOUGH:  # 0: nothing was scored yet
        return decoders
    wanted = min(room, math.ceil(decoders * min(2.0, 1 / busy_share)))
    if wanted > decoders:
        logger.info("the GPUs are busy for %.0f %% of the time: decoding in %d processes", 100 * busy_share, wanted)
    return max(decoders, wanted)
