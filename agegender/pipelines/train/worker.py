"""The training loop of one Ray Train worker. What a step does is ``model.trainer``'s; this is where it runs and goes on.

A checkpoint is written at each epoch's end and every so many steps; all ranks report equally often. Whatever an epoch has
summed so far travels in the checkpoint, so that a killed run ends with the metrics of one that was not.
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
from agegender.pipelines.train.artifacts import MetricsLog, keep_model
from agegender.pipelines.train.collectives import anyone_failed, average_statistics, sum_over_ranks, tally_over_ranks
from agegender.pipelines.train.data import decode_images, load_samples
from agegender.pipelines.train.distillation import with_teaching
from agegender.pipelines.train.epoch_sums import EpochSums
from agegender.pipelines.train.feed import Feed, Piece
from agegender.pipelines.train.job import Start, TrainJob
from agegender.pipelines.train.training_metrics import TrainingMetrics
from agegender.storage import files

logger = logging.getLogger(__name__)

POST_INTERVAL_S = 0.5

LOSS_TERMS = ("age_distribution", "age_error", "gender")


def train_worker(config: dict[str, TrainJob]) -> None:
    """Run, or go on with, the training of one rank; Ray Train calls it on each, with ``{"job": TrainJob}``."""
    job = config["job"]
    torch.set_num_threads(job.threads)
    worker = _prepare(job)
    if worker is None or not worker.run():
        return
    worker.keep()
    if ray.train.get_context().get_local_rank() == 0:
        remove_cache(job.cache_path)


def _prepare(job: TrainJob) -> "Worker | None":
    """Set up, or tell the driver why not: what is wrong with config or data would fail again on every attempt."""
    error: AgegenderError | None = None
    worker: Worker | None = None
    try:
        decode_images(job)
    except AgegenderError as caught:
        error = caught
    ray.train.collective.barrier()  # without a time limit, other than torch's: decoding may take long
    if not anyone_failed(job, error):
        try:
            worker = Worker(job)
        except AgegenderError as caught:
            error = caught
        if not anyone_failed(job, error):
            return worker
    return None


class Worker:
    """One rank: its share of the batches, and, on rank 0, checkpoints, metrics and the model that is kept.

    Args:
        job: what the driver says.
    """

    def __init__(self, job: TrainJob) -> None:
        context = ray.train.get_context()
        self.job, self.recipe = job, job.config.recipe()
        self.rank, self.ranks = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        train, self.val = load_samples(job)
        self.train = with_teaching(job, train, self.device)
        self.parts = job.config.accumulate
        crop_px = job.network.crop_size_px
        self.feed = Feed(self.train, self.recipe, self.rank, self.ranks, self.parts, self.device, crop_px)
        self.steps = self.feed.steps
        self.total_steps = self.recipe.epochs * self.steps
        self._check_sizes()
        # What all ranks do together comes before what one of them may stumble over.
        resolved = trainer.resolve_precision(self.recipe.precision, self.device)
        native = sum_over_ranks([float(resolved == "bfloat16")])[0] == self.ranks
        state = self._earlier_state()
        self._check_same_images(state)
        # Kept for all of a run; on mixed machines what all of them are built for.
        self.precision: Precision = "bfloat16" if native else "float32"
        if state is not None:
            self.precision = trainer.resolve_precision(state.config["precision"], self.device)
        self.epoch, self.step = (state.epoch, state.step) if state else (0, 0)  # step: of the whole run
        self.history: list[dict[str, Any]] = list(state.history) if state else []
        # Rank 0 carries for all what the unfinished epoch has summed, for it is added up over them.
        self.sums = EpochSums.from_plain(state.sums) if state and self.rank == 0 else EpochSums()
        self._build(state)
        self.log = MetricsLog(job, self.history) if self.rank == 0 else None
        self._pending: list[tuple[dict[str, Tensor], Integers]] = []
        self._posted_s, self._loss = 0.0, math.nan
        self._figures = TrainingMetrics(self.rank, self.sums.waited_s)

    def _check_sizes(self) -> None:
        # of as many ranks as there may be, or a run would fail when it grows
        workers, smallest = self.job.config.num_workers, len(self.train) // self.steps
        if smallest < workers * self.parts or len(self.val) < workers:
            raise ConfigError(
                f"{workers} workers that divide their share into {self.parts} for batches of {smallest} images "
                f"({len(self.train)} training, {len(self.val)} validation images): take fewer --num-workers, a lower "
                "--accumulate or a larger --batch-size"
            )

    def _check_same_images(self, state: TrainingState | None) -> None:
        if state is not None and state.schedule["images"] != len(self.train):
            raise InputError(
                f"training began on {state.schedule['images']} images, {len(self.train)} of them are left in "
                f"{', '.join(self.job.config.input)}: bring them back, or train into another --output"
            )

    def _earlier_state(self) -> TrainingState | None:
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
        self.optimizer = make_optimizer(self.network, self.recipe, self.rank, self.ranks)
        if state is not None:
            restore_optimizer(self.optimizer, self.network, state.optimizer)
            if state.ema:
                self.averaged.load_state_dict(state.ema)
        # Statistics of norms are each rank's own until they are averaged: broadcasting them at each step costs more.
        self.model: nn.Module = self.network
        if self.ranks > 1:
            ids = [self.device] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(
                self.network, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def run(self) -> bool:
        """Train all epochs that are left; False where the loss is no longer a number."""
        if self.rank == 0:
            self.job.monitor.begin.remote(Start(self.step, self._used_images(), self.ranks))
        self._post()
        while self.epoch < self.recipe.epochs:
            self._train_epoch()
            self._end_epoch()
            if self.history[-1]["train_loss"] is None:
                return self._diverged()
        return True

    def keep(self) -> None:
        """On rank 0, calibrate on the validation part and write the model."""
        if self.rank == 0:
            keep_model(self.job, self.averaged, self.val, self.device, self.precision, self.history)

    def _train_epoch(self) -> None:
        clock_s = time.perf_counter()
        for piece, waited_s in self.feed.pieces(self.epoch, self.step - self.epoch * self.steps):
            self.sums.waited_s += waited_s
            self._learn(piece)
            if piece.part + 1 < self.parts:
                continue
            self._end_step(piece.step_images)
            done = self.step - self.epoch * self.steps
            if done % self.job.config.checkpoint_interval_steps == 0 and done < self.steps:
                self._settle()
                self._lap(clock_s)
                self._checkpoint({"epoch": self.epoch, "step": self.step})
                clock_s = time.perf_counter()
        self._settle()
        self._lap(clock_s)

    def _learn(self, piece: Piece) -> None:
        batches.seed_step(self.recipe.seed, piece.place)
        rate = trainer.learning_rate_at(self.step, self.total_steps, self.recipe)
        with self._averaging_after_the_last(piece.part):
            terms = trainer.train_step(
                *(self.model, self.optimizer, piece.batch, self.recipe, rate, self.precision),
                part=piece.part,
                parts=self.parts,
            )
        self._pending.append((terms, piece.rows))

    def _averaging_after_the_last(self, part: int) -> AbstractContextManager[None]:
        """Gradients travel between the ranks once a step, not with each micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and part + 1 < self.parts:
            return self.model.no_sync()
        return nullcontext()

    def _end_step(self, images: int) -> None:
        trainer.update_average(self.averaged, self.network, self.recipe.ema_decay, self.step)
        self.step += 1
        self.sums.timed_images += images
        if time.monotonic() - self._posted_s > POST_INTERVAL_S:
            self._settle()
            self._post()

    def _settle(self) -> None:
        """Read the losses of the last steps off the device; doing it at each step would stall a GPU."""
        for terms, rows in self._pending:
            values = {name: float(value) for name, value in terms.items()}
            self.sums.tally.add("images", len(rows), len(rows))
            trainer.tally_terms(self.sums.tally, values, self.train.age_years[rows], self.train.gender[rows])
            self._loss = trainer.weighted_loss(values, self.recipe)
        self._pending.clear()

    def _lap(self, since_s: float) -> None:
        self.sums.seconds += time.perf_counter() - since_s

    def _post(self) -> None:
        self._posted_s = time.monotonic()
        self._figures.show(min(self.epoch, self.recipe.epochs - 1), self.step, self._loss, self.sums.waited_s)
        if self.rank != 0:
            return
        figures = {
            "epoch": f"{min(self.epoch + 1, self.recipe.epochs)}/{self.recipe.epochs}",
            "loss": f"{self._loss:.3f}",
        }
        if self.history:
            figures |= {
                name: _shown(self.history[-1][key])
                for name, key in (("val MAE", "age_mae_years"), ("val gender", "gender_accuracy"))
            }
        self.job.monitor.post.remote(self._used_images(), figures)

    def _used_images(self) -> int:
        in_epoch = batches.part_of(len(self.train), self.step - self.epoch * self.steps, self.steps)
        return self.epoch * len(self.train) + int(in_epoch.start)

    def _end_epoch(self) -> None:
        train = tally_over_ranks(self.sums.tally)
        average_statistics(self.averaged, self.ranks)
        share = batches.part_of(len(self.val), self.rank, self.ranks)
        rows = range(share.start, share.stop)
        val = tally_over_ranks(trainer.evaluate(self.averaged, self.val, rows, self.recipe, self.device)[1])
        self.history.append(self._measured(train, val))
        self.epoch += 1
        self.sums = EpochSums()
        metrics = {name: value for name, value in self.history[-1].items() if value is not None}
        self._checkpoint(metrics)
        if self.log is not None:
            self.log.append(self.history)
        self._post()

    def _measured(self, train: Tally, val: Tally) -> dict[str, Any]:
        train_terms, val_terms = train.means(), val.means()
        rate = trainer.learning_rate_at(self.step - 1, self.total_steps, self.recipe)
        row = {
            "train_loss": trainer.weighted_loss(train_terms, self.recipe),
            "val_loss": trainer.weighted_loss(val_terms, self.recipe),
            **{f"train_{name}": train_terms.get(name, math.nan) for name in LOSS_TERMS},
            "age_mae_years": val_terms.get("age_error_years", math.nan),
            "gender_accuracy": val_terms.get("gender_correct", math.nan),
            "learning_rate": rate,
            **self.sums.speed(),
        }
        whole = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "workers": self.ranks,
            "train_images": len(self.train),
            "used_images": round(train.counts["images"]),
            "val_images": len(self.val),
        }
        return {**whole, **{name: value if math.isfinite(value) else None for name, value in row.items()}}

    def _diverged(self) -> bool:
        error = ConfigError(
            f"the loss is not finite in epoch {self.epoch} (learning rate {self.recipe.learning_rate}, {self.precision}): "
            "lower --learning-rate or set --gradient-clip-norm, and give another --output"
        )
        return not anyone_failed(self.job, error)

    def _checkpoint(self, metrics: dict[str, Any]) -> None:
        for network in (self.network, self.averaged):
            average_statistics(network, self.ranks)
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


def _shown(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
