"""Run Ray Train from the driver: worker resources, progress, and errors as ``AgegenderError``."""

import logging
import math
import os
import threading
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

from agegender.errors import AgegenderError, ConfigError, ResourceError
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.placement import cpus_per_elastic_worker, cpus_per_worker, gpu_cpus, node_cpus
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.session import cluster_address
from agegender.pipelines.train import allocator
from agegender.pipelines.train.job import MonitorState, TrainJob
from agegender.pipelines.train.resume import attempt_name, attempts_uri
from agegender.pipelines.train.worker import train_worker
from agegender.storage import files
from agegender.training_config import TrainConfig

logger = logging.getLogger(__name__)

COLLECTIVE_TIMEOUT_S = 300
"""A rank that does not answer for this long is lost; torch's default is half an hour."""

POLL_INTERVAL_S = 0.5

RESIZE_INTERVAL_S = 30.0
"""How often an elastic run checks whether it can grow. Growing costs a restart from the newest checkpoint."""

START_TIMEOUT_S = "5"
"""How long Ray waits for workers to be placed before it counts the resources again; its default of 60 s is lost after a
node died. An environment value, so text."""

WORKER_ENV = {"OMP_WAIT_POLICY": "passive"} | allocator.WORKER_ENV
"""OpenMP threads that busy-wait make training on a shared machine five times slower (measured: 22 -> 119 images/s)."""


def reserved_cpus(config: TrainConfig) -> float:
    """CPUs that each worker reserves on the current nodes; with ``--use-gpu`` on those that have GPUs."""
    if config.use_gpu:
        shares = sorted(gpu_cpus(), reverse=True)
        share = shares[min(config.num_workers, len(shares)) - 1]
        return float(int(share)) if share >= 1 else math.floor(90 * share) / 100
    if config.min_workers is None:
        return cpus_per_worker(config.num_workers, node_cpus())
    return cpus_per_elastic_worker(config.num_workers, config.min_workers, node_cpus())


def check_gpus(config: TrainConfig) -> None:
    """Fail if a local Ray has too few GPUs; on a cluster only warn, because it may still grow.

    Raises:
        ConfigError: fewer GPUs than workers.
    """
    gpus = ray.cluster_resources().get("GPU", 0)
    needed = config.min_workers or config.num_workers
    if config.use_gpu and gpus < needed:
        message = f"--use-gpu needs a GPU for each of {needed} workers, Ray sees {gpus:g}"
        if cluster_address(config.address) is None:
            raise ConfigError(f"{message}: lower --num-workers, or leave --use-gpu out")
        logger.warning("%s: waiting for the cluster to grow", message)


def fit(job: TrainJob, attempt: int, images: int) -> None:
    """Train until the model is written; after a worker is lost, resume from the newest checkpoint.

    Args:
        job: sent to the workers.
        attempt: number of this attempt.
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
    """Fit in a thread, so that the main thread keeps our Ctrl-C handler (Ray would replace it) and shows progress."""
    raised: list[BaseException] = []

    def target() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  (raised again in the main thread)
            raised.append(error)

    thread = threading.Thread(target=target, name="ray-train", daemon=True)
    thread.start()
    _show_progress(thread, monitor, images, watch)
    if raised:
        _reraise(raised[0])


class _NodeWatch:
    """Make Ray Train recompute the cluster's resources as soon as a node joins or leaves; on its own it does so every 20 s.

    Ray has no public API for it, and only Ray 2.60 has this one. Without it, elastic runs only react later.
    """

    def __init__(self) -> None:
        self._known_nodes = self._living_nodes()

    def poll(self) -> None:
        nodes = self._living_nodes()
        if nodes != self._known_nodes:
            self._known_nodes = nodes
            self._recompute()

    def _recompute(self) -> None:
        try:
            from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator as coordinator

            resources = coordinator.get_or_create_autoscaling_coordinator().get_reserved_resources
            resources.remote("agegender", recompute=True)
        except (ImportError, AttributeError, TypeError) as error:
            logger.debug("Ray %s recomputes its resources on its own, every 20 s: %s", ray.__version__, error)

    def _living_nodes(self) -> set[str]:
        return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _show_progress(thread: threading.Thread, monitor: Any, images: int, watch: _NodeWatch | None) -> None:
    state: MonitorState = ray.get(monitor.read.remote())
    while thread.is_alive() and not state.starts:
        thread.join(POLL_INTERVAL_S)
        state = ray.get(monitor.read.remote())
    # The bar leaves out the work of earlier attempts, or its speed and time left would be wrong. Take the image count that
    # the workers reported at their start: by now they may have trained further.
    before = done = state.starts[0].images if state.starts else 0
    starts = 1
    with Progress(images - before, "images", "train") as progress:
        is_running = True
        while is_running:
            thread.join(POLL_INTERVAL_S)
            is_running = thread.is_alive()  # before the read, so that the final progress is read as well
            if watch is not None:
                watch.poll()
            state = ray.get(monitor.read.remote())
            for start in state.starts[starts:]:
                logger.warning(
                    "worker group restarted: resuming from step %d with %d workers", start.step, start.workers
                )
            starts = max(starts, len(state.starts))
            # After the loss of a worker the count falls back to the checkpoint: the bar stays until training has caught up.
            progress.update(max(0, state.images - done), **state.metrics)
            metrics.count("agegender_train_images_total", state.images - done, "train")
            done = max(done, state.images)


def _reraise(error: BaseException) -> None:
    failures = list(error.worker_failures.values()) if isinstance(error, WorkerGroupError) else [error]
    causes = [cause for failure in failures for cause in _causes(failure)]
    ours = next((cause for cause in causes if isinstance(cause, AgegenderError)), None)
    if ours is not None:
        raise ours from error
    if any(isinstance(cause, ray.exceptions.RayActorError | ray.exceptions.OutOfMemoryError) for cause in causes):
        raise ResourceError(
            f"training lost more workers than --max-failures allows: {causes[0]}. Run the same command again to resume"
        ) from error
    if isinstance(error, ControllerError) and isinstance(error.controller_failure, OSError):
        # Ray Train writes its own state beside the checkpoints.
        raise ResourceError(
            f"storage does not answer: {error.controller_failure}. Run the same command again to resume"
        ) from error
    raise error


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error and its causes; Ray wraps a worker's exception in ``_base_exc``."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = getattr(error, "_base_exc", None) or getattr(error, "cause", None) or error.__cause__
    return chain
