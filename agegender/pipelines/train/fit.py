"""Ray Train at work for the driver: workers and their resources, live progress, and errors as ours."""

import logging
import math
import os
import threading
from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from agegender.config import TrainConfig
from agegender.errors import AgegenderError, ConfigError, ResourceError
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.session import cluster_address, gpu_cpus, node_cpus
from agegender.pipelines.train.job import MonitorState, TrainJob
from agegender.pipelines.train.resume import attempt_name, attempts_uri
from agegender.pipelines.train.worker import train_worker
from agegender.storage import files

logger = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT_S = 300
"""A rank that is silent for so long is lost; torch's own half an hour is a long time to wait for it."""

POLL_INTERVAL_S = 0.5

RESIZE_INTERVAL_S = 30.0
"""So often an elastic run looks whether it could be larger. Growing costs a restart from the newest checkpoint."""

START_TIMEOUT_S = "5"
"""Until Ray knows that a node is lost it waits for a place there: so long in place of 60 s, then it counts what there is again."""

WORKER_ENV = {"OMP_WAIT_POLICY": "passive"}
"""Threads that spin while they wait make training on a shared machine five times slower (measured: 22 -> 119 images/s)."""


def cpus_per_worker(workers: int, cpus_of_nodes: Sequence[float]) -> float:
    """The most CPUs that each worker can reserve where all of them find room; below 1 they share.

    Args:
        workers: at least 1.
        cpus_of_nodes: CPUs of each node that has any.
    """
    for cpus in range(int(max(cpus_of_nodes)), 0, -1):
        if sum(int(of_node // cpus) for of_node in cpus_of_nodes) >= workers:
            return float(cpus)
    room = min(cpus / math.ceil(workers * cpus / sum(cpus_of_nodes)) for cpus in cpus_of_nodes)
    return max(0.01, math.floor(90 * min(room, 1.0)) / 100)


def cpus_per_elastic_worker(workers: int, min_workers: int, cpus_of_nodes: Sequence[float]) -> float:
    """As ``cpus_per_worker``, but where not all find room with a whole CPU each, some wait for nodes that may come.

    Args:
        workers: at most.
        min_workers: that must find room now.
        cpus_of_nodes: CPUs of each node that has any.
    """
    cpus = cpus_per_worker(workers, cpus_of_nodes)
    return cpus if cpus >= 1 else min(1.0, cpus_per_worker(min_workers, cpus_of_nodes))


def reserved_cpus(config: TrainConfig) -> float:
    """CPUs that each worker of a run reserves on the nodes that there are, with ``--use-gpu`` on those that have GPUs."""
    if config.use_gpu:
        shares = sorted(gpu_cpus(), reverse=True)
        share = shares[min(config.num_workers, len(shares)) - 1]
        return float(int(share)) if share >= 1 else math.floor(90 * share) / 100
    if config.min_workers is None:
        return cpus_per_worker(config.num_workers, node_cpus())
    return cpus_per_elastic_worker(config.num_workers, config.min_workers, node_cpus())


def check_gpus(config: TrainConfig) -> None:
    """Refuse what a Ray of our own can never give; a cluster may still grow.

    Raises:
        ConfigError: fewer GPUs than workers.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    needed = config.min_workers or config.num_workers
    if config.use_gpu and gpus < needed:
        message = f"--use-gpu with {needed} workers needs as many GPUs, Ray sees {gpus:g}"
        if cluster_address(config.address) is None:
            raise ConfigError(f"{message}: take fewer --num-workers, or leave --use-gpu out")
        logger.warning("%s: waiting for the cluster to grow", message)


def fit(job: TrainJob, attempt: int, images: int) -> None:
    """Train until the model is kept; after a loss, those that there is room for go on from the newest checkpoint.

    Args:
        job: for the workers.
        attempt: number of this one.
        images: training images of all epochs, for the progress bar.

    Raises:
        AgegenderError: as raised in a worker.
        ResourceError: more workers were lost than ``max_failures``.
    """
    config = job.config
    filesystem, path = files.arrow_filesystem(attempts_uri(config.output))
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=_scaling(config),
        run_config=RunConfig(
            name=attempt_name(attempt),
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=config.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": {name: os.environ.get(name, value) for name, value in WORKER_ENV.items()}},
        ),
    )
    _run(trainer, job.monitor, images, _NodeWatch() if _is_elastic(config) else None)
    error = ray.get(job.monitor.read.remote()).error
    if error is not None:
        raise error


def _scaling(config: TrainConfig) -> ScalingConfig:
    resources = {"CPU": reserved_cpus(config)} | ({"GPU": 1.0} if config.use_gpu else {})
    workers: Any = config.num_workers
    if _is_elastic(config):
        workers = (config.min_workers, config.num_workers)
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", START_TIMEOUT_S)
    return ScalingConfig(
        num_workers=workers,
        use_gpu=config.use_gpu,
        resources_per_worker=resources,
        elastic_resize_monitor_interval_s=RESIZE_INTERVAL_S,
    )


def _is_elastic(config: TrainConfig) -> bool:
    return config.min_workers is not None and config.min_workers < config.num_workers


def _run(trainer: TorchTrainer, monitor: Any, images: int, watch: "_NodeWatch | None") -> None:
    """Fit in a thread: Ray's own handler of Ctrl-C is for the main thread alone, where ours stays, and progress is drawn."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  (handed over to the main thread, where it is raised)
            raised.append(error)

    thread = threading.Thread(target=target, name="ray-train", daemon=True)
    thread.start()
    _draw(thread, monitor, images, watch)
    if raised:
        _raise_as_ours(raised[0])


class _NodeWatch:
    """Has Ray Train's count of the cluster renewed when a node goes or comes: by itself Ray does so every 20 s.

    There is no public way to it, and only Ray 2.60 has this one. Without it that takes longer, and nothing else.
    """

    def __init__(self) -> None:
        self._known = self._living()

    def look(self) -> None:
        living = self._living()
        if living != self._known:
            self._known = living
            self._renew_count()

    def _renew_count(self) -> None:
        try:
            from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator

            count = coordinator.get_or_create_autoscaling_coordinator().get_reserved_resources
            count.remote("agegender", recompute=True)
        except (ImportError, AttributeError, TypeError) as error:
            logger.debug("Ray %s counts its nodes by itself, every 20 s: %s", ray.__version__, error)

    def _living(self) -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _draw(thread: threading.Thread, monitor: Any, images: int, watch: _NodeWatch | None) -> None:
    state: MonitorState = ray.get(monitor.read.remote())
    while thread.is_alive() and not state.starts:
        thread.join(POLL_INTERVAL_S)
        state = ray.get(monitor.read.remote())
    # What an earlier attempt has done is not in the bar, or its speed and time left would be wrong. Where this one began
    # is what its workers said then: by now they may have trained on.
    before = done = state.starts[0].images if state.starts else 0
    starts = 1
    with Progress(images - before, "images", "train") as progress:
        is_running = True
        while is_running:
            thread.join(POLL_INTERVAL_S)
            is_running = thread.is_alive()  # asked first: what it posts at its end is read once more
            if watch is not None:
                watch.look()
            state = ray.get(monitor.read.remote())
            for start in state.starts[starts:]:
                logger.warning(
                    "workers were lost or have come: going on from step %d with %d", start.step, start.workers
                )
            starts = max(starts, len(state.starts))
            # After the loss of a worker the count falls back to the checkpoint: the bar waits until it is caught up with.
            progress.update(max(0, state.images - done), **state.figures)
            metrics.count("agegender_train_images_total", state.images - done, "train")
            done = max(done, state.images)


def _raise_as_ours(error: BaseException) -> None:
    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
    causes = [cause for failure in failures for cause in _causes(failure)]
    ours = next((cause for cause in causes if isinstance(cause, AgegenderError)), None)
    if ours is not None:
        raise ours from error
    if any(isinstance(cause, ray.exceptions.RayActorError | ray.exceptions.OutOfMemoryError) for cause in causes):
        raise ResourceError(
            f"training lost more workers than --max-failures allows: {causes[0]}. Run the same command again to go on"
        ) from error
    if isinstance(error, ControllerError) and isinstance(error.controller_failure, OSError):
        # Ray Train keeps its own state beside the checkpoints.
        raise ResourceError(
            f"storage does not answer: {error.controller_failure}. Run the same command again to go on"
        ) from error
    raise error


def _causes(error: BaseException | None) -> list[BaseException]:
    """An error and what it was raised from; Ray wraps a worker's own in ``_base_exc``."""
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error.__cause__
    return found
