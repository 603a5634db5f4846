"""The training loop of one Ray Train worker. ``model.trainer`` defines a step; this module runs and resumes it.

A checkpoint is written at the end of each epoch and every ``checkpoint_interval_steps``; all ranks report equally often.
It includes the partial sums of the current epoch, so that a resumed run ends with the metrics of an uninterrupted one.
"""

import logging
import math
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import ray.train
import ray.train.collective
import ray.train.torch
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from agegender.data.cache import remove_cache
from agegender.errors import AgegenderError, ConfigError, InputError
from agegender.model import batches, trainer
from agegender.model.batches import Integers
from agegender.model.checkpoint import (
    TrainingState,
    load_network,
    load_training_state,
    optimizer_state,
    restore_optimizer,
    save_training_state,
)
from agegender.model.network import build_network
from agegender.model.optimizer import make_optimizer
from agegender.model.trainer import Tally
from agegender.options import Precision
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.train.artifacts import MetricsLog, save_calibrated_model
from agegender.pipelines.train.collectives import anyone_failed, average_statistics, sum_over_ranks, tally_over_ranks
from agegender.pipelines.train.data import decode_images, load_samples
from agegender.pipelines.train.distillation import with_soft_targets
from agegender.pipelines.train.epoch_sums import EpochSums
from agegender.pipelines.train.feed import Feed, MicroBatch
from agegender.pipelines.train.job import TrainJob, WorkerGroupStart
from agegender.pipelines.train.training_metrics import TrainingMetrics
from agegender.storage import files

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5

_SHOWN = {"val MAE": "age_mae_years", "val to range": "age_mae_to_range_years", "val gender": "gender_accuracy"}
"""Metrics of the last epoch beside the progress bar, those that there are labels for."""

LOSS_TERMS = ("age_distribution", "age_error", "gender")


def train_worker(config: dict[str, TrainJob]) -> None:
    """Start or resume the training of one rank. Ray Train calls it on each rank with ``{"job": TrainJob}``."""
    job = config["job"]
    torch.set_num_threads(job.threads)
    worker = _prepare(job)
    if worker is None or not worker.run():
        return
    worker.save_model()
    if ray.train.get_context().get_local_rank() == 0:
        remove_cache(job.cache_path)


def _prepare(job: TrainJob) -> "Worker | None":
    """Set up the worker; None after an error that a retry cannot fix, which the driver has been sent."""
    error: AgegenderError | None = None
    worker: Worker | None = None
    try:
        decode_images(job)
    except AgegenderError as caught:
        error = caught
    ray.train.collective.barrier()  # has no timeout, unlike torch's barrier: decoding may take long
    if not anyone_failed(job, error):
        try:
            worker = Worker(job)
        except AgegenderError as caught:
            error = caught
        if not anyone_failed(job, error):
            return worker
    return None


class Worker:
    """One rank: its share of the batches and, on rank 0, checkpoints, metrics and the final model.

    Args:
        job: from the driver.
    """

    def __init__(self, job: TrainJob) -> None:
        context = ray.train.get_context()
        self.job, self.recipe = job, job.config.recipe()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        train, self.val = load_samples(job)
        self.train = with_soft_targets(job, train, self.device)
        self.accumulate = job.config.accumulate
        crop_px = job.network.crop_size_px
        self.feed = Feed(self.train, self.recipe, self.rank, self.world_size, self.accumulate, self.device, crop_px)
        self.steps = self.feed.steps
        self.total_steps = self.recipe.epochs * self.steps
        self._check_sizes()
        # Collective calls come before the checks that may raise on one rank only, or the other ranks would hang.
        resolved = trainer.resolve_precision(self.recipe.precision, self.device)
        native = sum_over_ranks([float(resolved == "bfloat16")])[0] == self.world_size
        state = self._load_state()
        self._check_same_images(state)
        # Fixed for the whole run; on mixed hardware, bfloat16 only where every rank is fast in it.
        self.precision: Precision = "bfloat16" if native else "float32"
        if state is not None:
            self.precision = trainer.resolve_precision(state.config["precision"], self.device)
        self.epoch, self.step = (state.epoch, state.step) if state else (0, 0)  # step counts from the start of the run
        self.history: list[dict[str, Any]] = list(state.history) if state else []
        # Only rank 0 restores the sums of the unfinished epoch: they are already summed over the ranks.
        self.sums = EpochSums.from_plain(state.sums) if state and self.rank == 0 else EpochSums()
        self._build(state)
        self.log = MetricsLog(job, self.history) if self.rank == 0 else None
        self._pending: list[tuple[dict[str, Tensor], Integers]] = []
        self._reported_s, self._loss = 0.0, math.nan
        self._prometheus = TrainingMetrics(self.rank, self.sums.waited_s)

    def _check_sizes(self) -> None:
        # check the largest possible world size, or an elastic run would fail when it grows
        workers, smallest = self.job.config.num_workers, len(self.train) // self.steps
        if smallest < workers * self.accumulate or len(self.val) < workers:
            raise ConfigError(
                f"--num-workers {workers} x --accumulate {self.accumulate} is more than the {smallest} images of the smallest batch "
                f"or the {len(self.val)} validation images ({len(self.train)} training images): lower --num-workers or "
                "--accumulate, or raise --batch-size"
            )

    def _check_same_images(self, state: TrainingState | None) -> None:
        if state is not None and state.schedule["images"] != len(self.train):
            raise InputError(
                f"the checkpoint was trained on {state.schedule['images']} images, but {', '.join(self.job.config.input)} now has "
                f"{len(self.train)} of them: restore the missing images, or train into another --output"
            )

    def _load_state(self) -> TrainingState | None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                return load_training_state(Path(folder), self.job.split_hash)
        if self.job.resume_from is None:
            return None
        with tempfile.TemporaryDirectory() as temporary:
            files.download_folder(self.job.resume_from, Path(temporary))
            return load_training_state(Path(temporary), self.job.split_hash)

    def _build(self, state: TrainingState | None) -> None:
        torch.manual_seed(self.recipe.seed)
        if self.job.init is not None and state is None:
            network, _ = load_network(localize_model(self.job.init).folder)
        else:
            network = build_network(self.job.network, None if state else self.recipe.weights)
        if state is not None:
            network.load_state_dict(state.network)
        network.config = self.job.network.for_scoring(self.recipe.augment.zoom_min)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = trainer.averaged_copy(self.network, self.recipe)
        self.optimizer = make_optimizer(self.network, self.recipe, self.rank, self.world_size)
        if state is not None:
            restore_optimizer(self.optimizer, self.network, state.optimizer)
            if state.ema:
                self.averaged.load_state_dict(state.ema)
        # Batch-norm statistics are per rank and averaged at checkpoints: broadcasting them at each step costs more.
        self.model: nn.Module = self.network
        if self.world_size > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(
                self.network, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def run(self) -> bool:
        """Train the remaining epochs; False if the loss became NaN or infinite."""
        if self.rank == 0:
            self.job.monitor.begin.remote(WorkerGroupStart(self.step, self._used_images(), self.world_size))
        self._report_progress()
        while self.epoch < self.recipe.epochs:
            self._train_epoch()
            self._end_epoch()
            if self.history[-1]["train_loss"] is None:
                return self._diverged()
        return True

    def save_model(self) -> None:
        """On rank 0, calibrate on the validation part and write the model folder."""
        if self.rank == 0:
            save_calibrated_model(
                *(self.job, self.averaged, self.train, self.val, self.device, self.precision, self.history)
            )

    def _train_epoch(self) -> None:
        clock_s = time.perf_counter()
        for micro_batch, waited_s in self.feed.micro_batches(self.epoch, self.step - self.epoch * self.steps):
            self.sums.waited_s += waited_s
            self._train_micro_batch(micro_batch)
            if micro_batch.index + 1 < self.accumulate:
                continue
            self._end_step(micro_batch.step_images)
            done = self.step - self.epoch * self.steps
            if done % self.job.config.checkpoint_interval_steps == 0 and done < self.steps:
                self._flush_losses()
                self._add_elapsed(clock_s)
                self._checkpoint({"epoch": self.epoch, "step": self.step})
                clock_s = time.perf_counter()
        self._flush_losses()
        self._add_elapsed(clock_s)

    def _train_micro_batch(self, micro_batch: MicroBatch) -> None:
        batches.seed_step(self.recipe.seed, micro_batch.place)
        rate = trainer.learning_rate_at(self.step, self.total_steps, self.recipe)
        with self._no_sync_until_last(micro_batch.index):
            terms = trainer.train_step(
                *(self.model, self.optimizer, micro_batch.batch, self.recipe, rate, self.precision),
                micro_batch=micro_batch.index,
                micro_batches=self.accumulate,
            )
        self._pending.append((terms, micro_batch.rows))

    def _no_sync_until_last(self, index: int) -> AbstractContextManager[None]:
        """Skip the all-reduce of gradients for all micro-batches but the last of a step."""
        if isinstance(self.model, DistributedDataParallel) and index + 1 < self.accumulate:
            return self.model.no_sync()
        return nullcontext()

    def _end_step(self, images: int) -> None:
        trainer.update_average(self.averaged, self.network, self.recipe.ema_decay, self.step)
        self.step += 1
        self.sums.timed_images += images
        if time.monotonic() - self._reported_s > REPORT_INTERVAL_S:
            self._flush_losses()
            self._report_progress()

    def _flush_losses(self) -> None:
        """Copy pending losses from the device; doing so at each step would stall a GPU."""
        for terms, rows in self._pending:
            values = {name: float(value) for name, value in terms.items()}
            self.sums.tally.add("images", len(rows), len(rows))
            trainer.tally_terms(self.sums.tally, values, self.train.age_known[rows], self.train.gender[rows])
            self._loss = trainer.weighted_loss(values, self.recipe)
        self._pending.clear()

    def _add_elapsed(self, since_s: float) -> None:
        self.sums.seconds += time.perf_counter() - since_s

    def _report_progress(self) -> None:
        self._reported_s = time.monotonic()
        self._prometheus.record(min(self.epoch, self.recipe.epochs - 1), self.step, self._loss, self.sums.waited_s)
        if self.rank != 0:
            return
        metrics = {
            "epoch": f"{min(self.epoch + 1, self.recipe.epochs)}/{self.recipe.epochs}",
            "loss": f"{self._loss:.3f}",
        }
        if self.history:
            metrics |= {
                name: _format_metric(self.history[-1][key])
                for name, key in _SHOWN.items()
                if self.history[-1][key] is not None
            }
        self.job.monitor.report.remote(self._used_images(), metrics)

    def _used_images(self) -> int:
        in_epoch = batches.part_of(len(self.train), self.step - self.epoch * self.steps, self.steps)
        return self.epoch * len(self.train) + int(in_epoch.start)

    def _end_epoch(self) -> None:
        train = tally_over_ranks(self.sums.tally)
        average_statistics(self.averaged, self.world_size)
        share = batches.part_of(len(self.val), self.rank, self.world_size)
        rows = range(share.start, share.stop)
        val = tally_over_ranks(trainer.evaluate(self.averaged, self.val, rows, self.recipe, self.device)[1])
        self.history.append(self._epoch_metrics(train, val))
        self.epoch += 1
        self.sums = EpochSums()
        metrics = {name: value for name, value in self.history[-1].items() if value is not None}
        self._checkpoint(metrics)
        if self.log is not None:
            self.log.append(self.history)
        self._report_progress()

    def _epoch_metrics(self, train: Tally, val: Tally) -> dict[str, Any]:
        train_terms, val_terms = train.means(), val.means()
        rate = trainer.learning_rate_at(self.step - 1, self.total_steps, self.recipe)
        row = {
            "train_loss": trainer.weighted_loss(train_terms, self.recipe),
            "val_loss": trainer.weighted_loss(val_terms, self.recipe),
            **{f"train_{name}": train_terms.get(name, math.nan) for name in LOSS_TERMS},
            "age_mae_years": val_terms.get("age_error_years", math.nan),
            "age_mae_to_range_years": val_terms.get("years_to_range", math.nan),
            "gender_accuracy": val_terms.get("gender_correct", math.nan),
            "learning_rate": rate,
            **self.sums.speed(),
        }
        counts = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "workers": self.world_size,
            "train_images": len(self.train),
            "used_images": round(train.counts["images"]),
            "val_images": len(self.val),
        }
        return {**counts, **{name: value if math.isfinite(value) else None for name, value in row.items()}}

    def _diverged(self) -> bool:
        error = ConfigError(
            f"training diverged: the loss is not finite in epoch {self.epoch} (learning rate {self.recipe.learning_rate}, "
            f"{self.precision}): lower --learning-rate or set --gradient-clip-norm, and choose another --output"
        )
        return not anyone_failed(self.job, error)

    def _checkpoint(self, metrics: dict[str, Any]) -> None:
        for network in (self.network, self.averaged):
            average_statistics(network, self.world_size)
        tally = tally_over_ranks(self.sums.tally)
        if self.rank != 0:
            self.sums.tally = Tally()
            ray.train.report(metrics, checkpoint=None)
            return
        self.sums.tally = tally
        with tempfile.TemporaryDirectory() as folder:
            save_training_state(Path(folder), self._state())
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _state(self) -> TrainingState:
        return TrainingState(
            epoch=self.epoch,
            step=self.step,
            network=dict(self.network.state_dict()),
            ema={} if self.averaged is self.network else dict(self.averaged.state_dict()),
            optimizer=optimizer_state(self.optimizer, self.network),
            config=self.job.config.model_dump(mode="json") | {"precision": self.precision},
            split_hash=self.job.split_hash,
            schedule={"kind": self.recipe.schedule, "total_steps": self.total_steps, "images": len(self.train)},
            history=self.history,
            sums=self.sums.to_plain(),
        )


def _format_metric(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
