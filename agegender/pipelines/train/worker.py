"""One Ray Train worker: the training loop of ``model.loop`` on the ranks, storage and metrics of Ray."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import ray.train.collective
import ray.train.torch
import torch

from agegender.data.cache import remove_cache
from agegender.errors import AgegenderError
from agegender.model.checkpoint import TrainingState, load_network, load_training_state, save_training_state
from agegender.model.loop import DivergedError, Listener, Ranks, TrainingLoop, TrainingTask, agreed_precision
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.train.artifacts import MetricsLog, save_calibrated_model
from agegender.pipelines.train.collectives import RayRanks, anyone_failed
from agegender.pipelines.train.data import decode_images, load_samples
from agegender.pipelines.train.job import TrainJob, WorkerGroupStart
from agegender.pipelines.train.training_metrics import TrainingMetrics
from agegender.storage import files

logger = logging.getLogger(__name__)

_SHOWN = {"val MAE": "age_mae_years", "val to range": "age_mae_to_range_years", "val gender": "gender_accuracy"}
"""Metrics of the last epoch beside the progress bar, those that there are labels for."""


def train_worker(config: dict[str, TrainJob]) -> None:
    """Start or resume the training of one rank. Ray Train calls it on each rank with ``{"job": TrainJob}``."""
    job = config["job"]
    torch.set_num_threads(job.threads)
    loop = _prepare(job)
    if loop is None or not _run(job, loop):
        return
    if loop.ranks.rank == 0:
        # the other workers of this node have nothing left to do
        torch.set_num_threads(job.threads * ray.train.get_context().get_local_world_size())
        save_calibrated_model(*(job, loop.averaged, loop.train, loop.val, loop.device, loop.precision, loop.history))
    if ray.train.get_context().get_local_rank() == 0:
        remove_cache(job.cache_path)


def _prepare(job: TrainJob) -> TrainingLoop | None:
    """Set up the training; None after an error that a retry cannot fix, which the driver has been sent."""
    error: AgegenderError | None = None
    loop: TrainingLoop | None = None
    try:
        decode_images(job)
    except AgegenderError as caught:
        error = caught
    ray.train.collective.barrier()  # has no timeout, unlike torch's barrier: decoding may take long
    if not anyone_failed(job, error):
        try:
            loop = _loop(job)
        except AgegenderError as caught:
            error = caught
        if not anyone_failed(job, error):
            return loop
    return None


def _loop(job: TrainJob) -> TrainingLoop:
    ranks, device, task = (
        RayRanks(),
        ray.train.torch.get_device(),
        TrainingTask(job.config, job.network, job.split_hash),
    )
    train, val = load_samples(job)
    # Collective calls come before what may raise on one rank only, or the other ranks would hang.
    precision = agreed_precision(task.recipe, device, ranks)
    state = _load_state(job)
    init = job.init if state is None else None
    return TrainingLoop(
        *(task, train, val, device, precision),
        state=state,
        init=None if init is None else load_network(localize_model(init).folder)[0],
        teachers=[load_network(localize_model(teacher).folder)[0] for teacher in job.teachers],
        ranks=ranks,
        listener=RayListener(job, ranks, state.history if state else []),
    )


def _load_state(job: TrainJob) -> TrainingState | None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            return load_training_state(Path(folder), job.split_hash)
    if job.resume_from is None:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        files.download_folder(job.resume_from, Path(temporary))
        return load_training_state(Path(temporary), job.split_hash)


def _run(job: TrainJob, loop: TrainingLoop) -> bool:
    """Train the remaining epochs; False if the loss became NaN or infinite, which the driver has been sent."""
    try:
        loop.run()
    except DivergedError as error:  # on all ranks
        anyone_failed(job, error)
        return False
    return True


class RayListener(Listener):
    """Sends states to Ray Train, metrics to OUTPUT and Prometheus, progress to the driver.

    Args:
        job: from the driver.
        ranks: of the worker.
        history: metrics of the epochs that are finished.
    """

    def __init__(self, job: TrainJob, ranks: Ranks, history: list[dict[str, Any]]) -> None:
        self._job, self._rank, self._world_size = job, ranks.rank, ranks.world_size
        self._log = MetricsLog(job, history) if self._rank == 0 else None
        self._prometheus: TrainingMetrics | None = None

    def checkpoint(self, metrics: dict[str, Any], state: TrainingState | None) -> None:
        """Report to Ray Train, which all ranks have to do equally often."""
        if state is None:
            ray.train.report(metrics, checkpoint=None)
            return
        with tempfile.TemporaryDirectory() as folder:
            save_training_state(Path(folder), state)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def end_epoch(self, history: list[dict[str, Any]]) -> None:
        """Write the metrics."""
        if self._log is not None:
            self._log.append(history)

    def progress(self, loop: TrainingLoop) -> None:
        """Set Prometheus' metrics and, on rank 0, tell the driver."""
        if self._prometheus is None:
            self._prometheus = self._begin(loop)
        epoch, epochs = min(loop.epoch, loop.recipe.epochs - 1), loop.recipe.epochs
        self._prometheus.record(epoch, loop.step, loop.loss, loop.sums.waited_s)
        if self._rank != 0:
            return
        last = loop.history[-1] if loop.history else {}
        shown = {name: f"{last[key]:.3f}" for name, key in _SHOWN.items() if last.get(key) is not None}
        self._job.monitor.report.remote(
            loop.used_images, {"epoch": f"{epoch + 1}/{epochs}", "loss": f"{loop.loss:.3f}", **shown}
        )

    def _begin(self, loop: TrainingLoop) -> TrainingMetrics:
        if self._rank == 0:
            self._job.monitor.begin.remote(WorkerGroupStart(loop.step, loop.used_images, self._world_size))
        return TrainingMetrics(self._rank, loop.sums.waited_s)
