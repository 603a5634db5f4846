"""The training loop: epochs, steps, micro-batches, checkpoints, and the evaluation at the end of each epoch.

``trainer`` defines a step; this module runs and resumes it. It knows nothing of what starts the ranks and of where states and
metrics go: ``Ranks`` and ``Listener`` are the two seams. A single device needs neither another rank nor Ray.

A checkpoint is offered at the end of each epoch and every ``checkpoint_interval_steps``. It includes the partial sums of the
current epoch, so that a resumed run ends with the metrics of an uninterrupted one.
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agegender.artifact import NetworkConfig
from agegender.errors import ConfigError, InputError
from agegender.model import batches, trainer
from agegender.model.batches import Integers, Samples
from agegender.model.by_source import source_metrics, source_sums
from agegender.model.checkpoint import TrainingState, optimizer_state, restore_optimizer
from agegender.model.distillation import Teachers
from agegender.model.epoch_sums import TALLIED, EpochSums
from agegender.model.feed import Feed, MicroBatch
from agegender.model.network import FaceNetwork, build_network
from agegender.model.optimizer import make_optimizer
from agegender.model.trainer import Estimates, Tally
from agegender.options import Precision
from agegender.recipe import Recipe
from agegender.training_config import TrainConfig

REPORT_INTERVAL_S = 0.5

LOSS_TERMS = ("age_distribution", "age_error", "gender")


class DivergedError(ConfigError):
    """The loss became NaN or infinite."""


class Ranks:
    """The processes that train together; this class is the only one of its run, and a subclass has others beside it.

    Every rank calls the same methods in the same order.
    """

    rank = 0
    world_size = 1

    def sums(self, values: list[float]) -> list[float]:
        """Element-wise sums over all ranks."""
        return values

    def average_statistics(self, network: nn.Module) -> None:
        """Average the batch-norm statistics, which each rank has over its own images, in place."""

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:  # noqa: ARG002  # a subclass needs it
        """The network as it is called in training, which averages the gradients over the ranks."""
        return network

    def without_sync(self, model: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        """Within it ``model``, of ``parallel``, leaves the gradients as they are."""
        return nullcontext()

    def tally(self, tally: Tally) -> Tally:
        """The sums of all ranks added up."""
        total = self.sums([sums.get(name, 0.0) for sums in (tally.sums, tally.counts) for name in TALLIED])
        sums, counts = total[: len(TALLIED)], total[len(TALLIED) :]
        return Tally(dict(zip(TALLIED, sums, strict=True)), dict(zip(TALLIED, counts, strict=True)))


class Listener:
    """What happens beside the training of a rank: its states are saved, its metrics written, its progress shown."""

    def checkpoint(self, metrics: dict[str, Any], state: TrainingState | None) -> None:
        """Called by all ranks equally often; only rank 0 has the state.

        Args:
            metrics: at the end of an epoch, its metrics that have a value; within one, ``epoch`` and ``step``.
            state: to resume from.
        """

    def end_epoch(self, history: list[dict[str, Any]]) -> None:
        """Called after the checkpoint of each epoch.

        Args:
            history: metrics of each finished epoch.
        """

    def progress(self, loop: "TrainingLoop") -> None:
        """Called at the start, about twice a second, and at the end of each epoch."""


@dataclass(frozen=True)
class TrainingTask:
    """What is trained; the same on all ranks and for each process of a run."""

    config: TrainConfig
    """Resolved; kept in each state."""

    network: NetworkConfig
    """As it is trained."""

    split_hash: str

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return self.config.recipe()


def agreed_precision(recipe: Recipe, device: torch.device, ranks: Ranks) -> Precision:
    """The precision of a whole run; on mixed hardware, bfloat16 only where every rank is fast in it. All ranks must call it."""
    resolved = trainer.resolve_precision(recipe.precision, device)
    native = ranks.sums([float(resolved == "bfloat16")])[0] == ranks.world_size
    return "bfloat16" if native else "float32"


class TrainingLoop:
    """One rank: its share of the batches.

    Args:
        task: what is trained.
        train: the training part.
        val: the validation part.
        device: of the network.
        precision: of a new run, from ``agreed_precision``; a resumed one keeps that of its state.
        state: to resume from; None: start from step 0.
        init: network of the task's architecture to start from; None: a new one.
        teachers: networks with a distribution head, which are asked in each step; see ``Teachers``.
        ranks: that train together.
        listener: of this rank.

    Raises:
        ConfigError: the batches are too small for the ranks.
        InputError: the state is of other images.
    """

    def __init__(
        self,
        task: TrainingTask,
        train: Samples,
        val: Samples,
        device: torch.device,
        precision: Precision,
        *,
        state: TrainingState | None = None,
        init: FaceNetwork | None = None,
        teachers: Sequence[FaceNetwork] = (),
        ranks: Ranks | None = None,
        listener: Listener | None = None,
    ) -> None:
        self.task, self.recipe = task, task.recipe
        self.train, self.val, self.device = train, val, device
        self.ranks, self.listener = ranks or Ranks(), listener or Listener()
        self.accumulate = task.config.accumulate
        self.precision = (
            precision if state is None else trainer.resolve_precision(state.config["precision"], self.device)
        )
        self.teachers = self._teachers(teachers)
        self.feed = Feed(
            *(train, self.recipe, self.ranks.rank, self.ranks.world_size, self.accumulate, device),
            *self._augmented_px(),
        )
        self.steps = self.feed.steps
        self.total_steps = self.recipe.epochs * self.steps
        self._check_sizes()
        self._check_same_images(state)
        self.epoch, self.step = (state.epoch, state.step) if state else (0, 0)  # step counts from the start of the run
        self.history: list[dict[str, Any]] = list(state.history) if state else []
        # Only rank 0 restores the sums of the unfinished epoch: they are already summed over the ranks.
        self.sums = EpochSums.from_plain(state.sums) if state and self.ranks.rank == 0 else EpochSums()
        self._build(state, init)
        self._pending: list[tuple[dict[str, Tensor], Integers]] = []
        self._reported_s = 0.0
        self.loss = math.nan
        """Of the last step whose loss was copied from the device; NaN before the first."""

    def _teachers(self, networks: Sequence[FaceNetwork]) -> Teachers | None:
        if not networks:
            return None
        return Teachers([each.to(self.device) for each in networks], self.task.network, self.precision)

    def _augmented_px(self) -> tuple[int, int]:
        """Sides of the crop and of the whole image that augmentation gives."""
        if self.teachers is not None:
            return self.teachers.crop_px, self.teachers.side_px
        return self.task.network.crop_size_px, self.task.network.image_size_px

    def _check_sizes(self) -> None:
        # check the largest possible world size, or an elastic run would fail when it grows
        workers, smallest = self.task.config.num_workers, len(self.train) // self.steps
        if smallest < workers * self.accumulate or len(self.val) < workers:
            raise ConfigError(
                f"--num-workers {workers} x --accumulate {self.accumulate} is more than the {smallest} images of the smallest batch "
                f"or the {len(self.val)} validation images ({len(self.train)} training images): lower --num-workers or "
                "--accumulate, or raise --batch-size"
            )

    def _check_same_images(self, state: TrainingState | None) -> None:
        if state is not None and state.schedule["images"] != len(self.train):
            raise InputError(
                f"the checkpoint was trained on {state.schedule['images']} images, but {', '.join(self.task.config.input)} now "
                f"has {len(self.train)} of them: restore the missing images, or train into another --output"
            )

    def _build(self, state: TrainingState | None, init: FaceNetwork | None) -> None:
        torch.manual_seed(self.recipe.seed)
        network = init or build_network(self.task.network, None if state else self.recipe.weights)
        if state is not None:
            network.load_state_dict(state.network)
        network.config = self.task.network.for_scoring(self.recipe.augment.zoom_min)
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.averaged = trainer.averaged_copy(self.network, self.recipe)
        """The weights that are evaluated and saved."""
        self.optimizer = make_optimizer(self.network, self.recipe, self.ranks.rank, self.ranks.world_size)
        if state is not None:
            restore_optimizer(self.optimizer, self.network, state.optimizer)
            if state.ema:
                self.averaged.load_state_dict(state.ema)
        self.model = self.ranks.parallel(self.network, self.device)

    @property
    def used_images(self) -> int:
        """Training images used since the start of the run, over all epochs and ranks."""
        in_epoch = batches.part_of(len(self.train), self.step - self.epoch * self.steps, self.steps)
        return self.epoch * len(self.train) + int(in_epoch.start)

    def run(self) -> None:
        """Train the remaining epochs.

        Raises:
            DivergedError: the loss became NaN or infinite; on all ranks at once.
        """
        self._report_progress()
        while self.epoch < self.recipe.epochs:
            self._train_epoch()
            self._end_epoch()
            if self.history[-1]["train_loss"] is None:
                raise DivergedError(
                    f"training diverged: the loss is not finite in epoch {self.epoch} (learning rate "
                    f"{self.recipe.learning_rate}, {self.precision}): lower --learning-rate or set --gradient-clip-norm, and "
                    "choose another --output"
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
            if done % self.task.config.checkpoint_interval_steps == 0 and done < self.steps:
                self._flush_losses()
                self._add_elapsed(clock_s)
                self._checkpoint({"epoch": self.epoch, "step": self.step})
                clock_s = time.perf_counter()
        self._flush_losses()
        self._add_elapsed(clock_s)

    def _train_micro_batch(self, micro_batch: MicroBatch) -> None:
        batches.seed_step(self.recipe.seed, micro_batch.place)
        rate = trainer.learning_rate_at(self.step, self.total_steps, self.recipe)
        batch = micro_batch.batch if self.teachers is None else self.teachers.teach(micro_batch.batch)
        is_last = micro_batch.index + 1 == self.accumulate  # before it, the ranks need not average their gradients
        with nullcontext() if is_last else self.ranks.without_sync(self.model):
            terms = trainer.train_step(
                *(self.model, self.optimizer, batch, self.recipe, rate, self.precision),
                micro_batch=micro_batch.index,
                micro_batches=self.accumulate,
            )
        self._pending.append((terms, micro_batch.rows))

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
            weights = None if self.train.weights is None else self.train.weights[rows]
            trainer.tally_terms(self.sums.tally, values, self.train.age_known[rows], self.train.gender[rows], weights)
            self.loss = trainer.weighted_loss(values, self.recipe)
        self._pending.clear()

    def _add_elapsed(self, since_s: float) -> None:
        self.sums.seconds += time.perf_counter() - since_s

    def _report_progress(self) -> None:
        self._reported_s = time.monotonic()
        self.listener.progress(self)

    def _end_epoch(self) -> None:
        train = self.ranks.tally(self.sums.tally)
        self.ranks.average_statistics(self.averaged)
        share = batches.part_of(len(self.val), self.ranks.rank, self.ranks.world_size)
        rows = np.arange(share.start, share.stop)
        estimates, val = trainer.evaluate(self.averaged, self.val, rows, self.recipe, self.device)
        self.history.append(self._epoch_metrics(train, self.ranks.tally(val)) | self._by_source(estimates, rows))
        self.epoch += 1
        self.sums = EpochSums()
        self._checkpoint({name: value for name, value in self.history[-1].items() if value is not None})
        self.listener.end_epoch(self.history)
        self._report_progress()

    def _by_source(self, estimates: Estimates, rows: Integers) -> dict[str, Any]:
        """The validation metrics of each source, where there are several; all ranks must call it."""
        names = [source.name for source in self.task.config.sources()]
        if len(names) < 2:
            return {}
        sums = self.ranks.sums(source_sums(estimates, self.val, rows, len(names)))
        return {"by_source": source_metrics(sums, names)}

    def _epoch_metrics(self, train: Tally, val: Tally) -> dict[str, Any]:
        train_terms, val_terms = train.means(), val.means()
        rate = trainer.learning_rate_at(self.step - 1, self.total_steps, self.recipe)
        is_finite = all(math.isfinite(mean) for mean in train_terms.values())
        row = {
            "train_loss": trainer.weighted_loss(train_terms, self.recipe) if is_finite else math.nan,
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
            "workers": self.ranks.world_size,
            "train_images": len(self.train),
            "used_images": round(train.counts["images"]),
            "val_images": len(self.val),
        }
        return {**counts, **{name: value if math.isfinite(value) else None for name, value in row.items()}}

    def _checkpoint(self, metrics: dict[str, Any]) -> None:
        for network in (self.network, self.averaged):
            self.ranks.average_statistics(network)
        tally = self.ranks.tally(self.sums.tally)
        if self.ranks.rank == 0:
            self.sums.tally = tally
            self.listener.checkpoint(metrics, self._state())
        else:
            self.sums.tally = Tally()
            self.listener.checkpoint(metrics, None)

    def _state(self) -> TrainingState:
        return TrainingState(
            epoch=self.epoch,
            step=self.step,
            network=dict(self.network.state_dict()),
            ema={} if self.averaged is self.network else dict(self.averaged.state_dict()),
            optimizer=optimizer_state(self.optimizer, self.network),
            config=self.task.config.model_dump(mode="json") | {"precision": self.precision},
            split_hash=self.task.split_hash,
            schedule={"kind": self.recipe.schedule, "total_steps": self.total_steps, "images": len(self.train)},
            history=self.history,
            sums=self.sums.to_plain(),
        )
