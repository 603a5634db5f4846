"""One training step and one evaluation: functions over batches. The caller chooses device and parallelism.

Shapes: B images of one batch (a rank's share of it).
"""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from agegender.model.batches import Batch, Integers, Samples, load_batch
from agegender.model.losses import total_loss
from agegender.model.network import FaceNetwork, Outputs
from agegender.model.transforms import resized
from agegender.options import Precision
from agegender.processor import is_faster_in_bfloat16
from agegender.recipe import Recipe
from agegender.schema import age_end_years

EVALUATION_BATCH = 64
"""With two views no more than a training batch, so that it takes no more memory (docs/training.md)."""


@dataclass
class Tally:
    """Sums over images and the number of images in each. Means are computed after the sums of all ranks are added."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, total: float, count: float) -> None:
        """Add a sum over ``count`` images."""
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0.0) + count

    def means(self) -> dict[str, float]:
        """Mean by name; names without images are left out."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """Resolve ``auto``: bfloat16 on GPUs that support it and on CPUs that ``processor`` says are faster in it, else float32.

    Args:
        wanted: ``auto``, ``float32`` or ``bfloat16``.
        device: that trains.
    """
    if wanted != "auto":
        return "bfloat16" if wanted == "bfloat16" else "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if is_faster_in_bfloat16() else "float32"


def learning_rate_at(step: int, total_steps: int, recipe: Recipe) -> float:
    """The learning rate of one step of the whole run: a linear warm-up, then constant or half a cosine to zero.

    Args:
        step: from 0.
        total_steps: over all epochs.
        recipe: peak, warm-up and schedule.
    """
    warmup_steps = recipe.warmup_fraction * total_steps if recipe.schedule == "one-cycle" else 0.0
    if step < warmup_steps:
        return recipe.learning_rate * (step + 1) / (warmup_steps + 1)
    if recipe.schedule == "constant":
        return recipe.learning_rate
    done = (step - warmup_steps) / max(total_steps - warmup_steps, 1.0)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    recipe: Recipe,
    learning_rate: float,
    precision: Precision,
    micro_batch: int = 0,
    micro_batches: int = 1,
) -> dict[str, Tensor]:
    """Forward, backward and, after the rank's last micro-batch, the optimizer step.

    On several ranks ``model`` averages the gradients over them. Each micro-batch scales its loss terms by its share of the
    labels, so that the average over ranks and micro-batches is the gradient of the mean over the global batch, even if
    images and labels are spread unevenly. Batch norms see one micro-batch at a time and update their statistics on each.

    Args:
        model: the network or its DistributedDataParallel wrapper, which has to sync only at the last micro-batch.
        optimizer: of its parameters.
        batch: this rank's micro-batch.
        recipe: loss weights and gradient clipping.
        learning_rate: of this step.
        precision: of the forward pass.
        micro_batch: index, 0 to ``micro_batches`` - 1; gradients accumulate over them.
        micro_batches: of the rank's share of the step; 1: no gradient accumulation.

    Returns:
        Each loss term, a weighted mean over the labelled images of ``batch``, on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    model.train()
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        outputs: Outputs = model(batch.images)
    loss, terms = batch_loss(outputs, batch, _scaled_recipe(recipe, batch))
    if micro_batch == 0:
        optimizer.zero_grad(set_to_none=True)
    (loss / micro_batches).backward()  # type: ignore[no-untyped-call]
    if micro_batch + 1 < micro_batches:
        return terms
    if recipe.gradient_clip_norm > 0:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip_norm)
    optimizer.step()
    return terms


def batch_loss(outputs: Outputs, batch: Batch, recipe: Recipe) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its terms, as of ``total_loss``; where images are mixed, those of both labels by their shares.

    What teachers say is of the image as it is mixed, and so the same beside either label.
    """

    def loss_of(rows: Tensor | slice) -> tuple[Tensor, dict[str, Tensor]]:
        ranges, weights = batch.age_ranges_B2, batch.weights_B
        return total_loss(
            *(outputs, batch.age_years_B[rows], batch.gender_B[rows], recipe, batch.soft_targets_BX),
            None if ranges is None else ranges[rows],
            None if weights is None else weights[rows],
        )

    loss, terms = loss_of(slice(None))
    if batch.mixed_with_B is None:
        return loss, terms
    other_loss, other_terms = loss_of(batch.mixed_with_B)
    mixed = {name: torch.lerp(other_terms[name], term, batch.own_share) for name, term in terms.items()}
    return torch.lerp(other_loss, loss, batch.own_share), mixed


def _scaled_recipe(recipe: Recipe, batch: Batch) -> Recipe:
    if batch.age_share == batch.gender_share == 1.0:
        return recipe
    return recipe.model_copy(
        update={
            "age_distribution_weight": recipe.age_distribution_weight * batch.age_share,
            "age_error_weight": recipe.age_error_weight * batch.age_share,
            "gender_weight": recipe.gender_weight * batch.gender_share,
        }
    )


def averaged_copy(network: FaceNetwork, recipe: Recipe) -> FaceNetwork:
    """The network to evaluate and save: a copy for ``update_average`` (EMA), or without averaging the network itself."""
    if recipe.ema_decay == 0:
        return network
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def update_average(averaged: FaceNetwork, network: FaceNetwork, decay: float, step: int) -> None:
    """Update the exponential moving average of weights and statistics.

    Args:
        averaged: from ``averaged_copy``.
        network: after its step.
        decay: per step; at most (1 + step) / (10 + step), so that the initial weights are soon forgotten.
        step: of the whole run, from 0.
    """
    if averaged is network:
        return
    weight = 1 - min(decay, (1 + step) / (10 + step))
    mine, theirs = averaged.state_dict(), network.state_dict()
    moving = [name for name, value in mine.items() if value.is_floating_point()]
    torch._foreach_lerp_([mine[name] for name in moving], [theirs[name] for name in moving], weight)
    for name in mine.keys() - set(moving):
        mine[name].copy_(theirs[name])


def tally_terms(
    tally: Tally,
    terms: Mapping[str, float],
    age_known: npt.NDArray[np.bool_],
    gender: Integers,
    weights: npt.NDArray[np.float32] | None = None,
) -> None:
    """Add the mean loss terms of some images, each weighted by the images that are labelled for it, or by their weights."""
    counted = np.ones(len(gender), np.float32) if weights is None else weights
    labelled = {"age": float(counted[age_known].sum()), "gender": float(counted[gender >= 0].sum())}
    for name, value in terms.items():
        count = labelled["gender" if name.startswith("gender") else "age"]
        tally.add(name, value * count, count)


def weighted_loss(terms: Mapping[str, float], recipe: Recipe) -> float:
    """The training loss from its mean terms; a term without labels counts as 0."""
    weights = {
        "age_distribution": recipe.age_distribution_weight,
        "age_error": recipe.age_error_weight,
        "gender": recipe.gender_weight,
    }
    return sum(
        weight * terms[name] for name, weight in weights.items() if weight and math.isfinite(terms.get(name, math.nan))
    )


class Estimates(NamedTuple):
    """The network's estimates for some rows, in their order."""

    age_years: npt.NDArray[np.float32]
    age_spread_years: npt.NDArray[np.float32]
    gender_logit: npt.NDArray[np.float32]


@torch.no_grad()
def evaluate(
    network: FaceNetwork, samples: Samples, rows: Iterable[int], recipe: Recipe, device: torch.device
) -> tuple[Estimates, Tally]:
    """Evaluate the network on some rows as it will be used: float32, no augmentation, each image counted once.

    Args:
        network: averaged weights; images are resized to its input size.
        samples: the validation part.
        rows: a rank's share of it.
        recipe: of the loss terms.
        device: of the network.

    Returns:
        Estimates per row; sums of the loss terms, ``age_error_years`` over exact ages, ``years_to_range`` over ranges and
        ``gender_correct``.
    """
    training = network.training
    network.eval()
    index = np.fromiter(rows, np.int64)
    tally = Tally()
    collected: list[list[npt.NDArray[np.float32]]] = []
    for start in range(0, len(index), EVALUATION_BATCH):
        share = index[start : start + EVALUATION_BATCH]
        batch = load_batch(samples, share, 0, 1, device)
        outputs: Outputs = network(resized(batch.images, network.config.image_size_px))
        _, terms = total_loss(outputs, batch.age_years_B, batch.gender_B, recipe, None, batch.age_ranges_B2)
        tally_terms(
            tally,
            {name: float(value) for name, value in terms.items()},
            samples.age_known[share],
            samples.gender[share],
        )
        columns = (outputs.age_years_B, outputs.age_spread_years(), outputs.gender_logit_B)
        collected.append([column.float().cpu().numpy() for column in columns])
    network.train(training)
    none = [np.zeros(0, np.float32)] * 3
    estimates = Estimates(*(np.concatenate(parts) for parts in zip(none, *collected, strict=True)))
    tally_errors(tally, estimates, samples, index)
    return estimates, tally


def tally_errors(tally: Tally, estimates: Estimates, samples: Samples, rows: Integers) -> None:
    """Add ``age_error_years`` over exact ages, ``years_to_range`` over ranges and ``gender_correct``.

    Args:
        tally: to add to.
        estimates: for ``rows``, in their order.
        samples: with the labels.
        rows: int64[N].
    """
    _tally_exact(tally, estimates, samples.age_years[rows], samples.gender[rows])
    if samples.age_ranges is not None:
        _tally_ranges(tally, estimates, samples.age_ranges[rows])


def _tally_exact(tally: Tally, estimates: Estimates, age_years: npt.NDArray[np.float32], gender: Integers) -> None:
    labelled = np.isfinite(age_years)
    errors = np.abs(estimates.age_years[labelled].astype(np.float64) - age_years[labelled])
    tally.add("age_error_years", float(errors.sum()), int(labelled.sum()))
    known = gender >= 0
    correct = (estimates.gender_logit[known] > 0) == (gender[known] == 1)
    tally.add("gender_correct", float(correct.sum()), int(known.sum()))


def _tally_ranges(tally: Tally, estimates: Estimates, ranges: npt.NDArray[np.float32]) -> None:
    ranged = np.isfinite(ranges[:, 0])
    estimate, low = estimates.age_years[ranged].astype(np.float64), ranges[ranged, 0]
    outside = np.abs(estimate - np.clip(estimate, low, age_end_years(low, ranges[ranged, 1])))
    tally.add("years_to_range", float(outside.sum()), int(ranged.sum()))
