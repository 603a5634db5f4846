"""One training step and one evaluation: plain functions over batches. Device and parallelism come from outside.

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

from agegender.model.batches import Batch, Integers, Samples, load_batch, resized
from agegender.model.losses import total_loss
from agegender.model.network import FaceNetwork, Outputs
from agegender.options import Precision
from agegender.processor import is_faster_in_bfloat16
from agegender.recipe import Recipe

EVALUATION_BATCH = 256


@dataclass
class Tally:
    """Sums over images and how many images each is over. Ranks add theirs up before anything is divided."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, total: float, count: float) -> None:
        """Count a sum over ``count`` images."""
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0.0) + count

    def means(self) -> dict[str, float]:
        """Each mean by name; what was counted over no image is left out."""
        return {name: self.sums[name] / count for name, count in self.counts.items() if count}


def resolve_precision(wanted: str, device: torch.device) -> Precision:
    """``auto`` is bfloat16 where the processor is faster in it: on GPUs that have it, and on the CPUs of ``processor``.

    Args:
        wanted: ``auto``, ``float32`` or ``bfloat16``.
        device: what trains.
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
        total_steps: of all epochs.
        recipe: peak, warm-up and kind of schedule.
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
    part: int = 0,
    parts: int = 1,
) -> dict[str, Tensor]:
    """Forward, backward and, after the last part of the rank's batch, the update.

    On several ranks ``model`` averages gradients over them. Each share scales its terms by its part of the labels, so
    that the average over ranks and parts is the gradient of the mean over the global batch, however unevenly images and
    labels fall. Norms see one part at a time, and their running statistics move once in each.

    Args:
        model: the network, or its distributed wrapper, which needs to average after the last part alone.
        optimizer: of its parameters.
        batch: this rank's share, or this part of it.
        recipe: weights of the losses, bound of the gradient.
        learning_rate: of this step.
        precision: of the forward pass.
        part: 0..parts-1; the gradients of all parts add up.
        parts: micro-batches of the rank's share; 1: it is not divided.

    Returns:
        Each loss term, a mean over the labelled images of ``batch``, on the device.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    model.train()
    with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        outputs: Outputs = model(batch.images)
    shared = _shared(recipe, batch)
    loss, terms = total_loss(outputs, batch.age_years_B, batch.gender_B, shared, batch.taught_BX)
    if part == 0:
        optimizer.zero_grad(set_to_none=True)
    (loss / parts).backward()  # type: ignore[no-untyped-call]
    if part + 1 < parts:
        return terms
    if recipe.gradient_clip_norm > 0:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip_norm)
    optimizer.step()
    return terms


def _shared(recipe: Recipe, batch: Batch) -> Recipe:
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
    """The network that is evaluated and kept: a copy that follows by ``update_average``, or the network itself without averaging."""
    if recipe.ema_decay == 0:
        return network
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def update_average(averaged: FaceNetwork, network: FaceNetwork, decay: float, step: int) -> None:
    """Move the averaged weights and statistics towards the network's.

    Args:
        averaged: from ``averaged_copy``.
        network: after its step.
        decay: per step, in the long run; early on it is (1 + step) / (10 + step), so that the first weights are forgotten.
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


def tally_terms(tally: Tally, terms: Mapping[str, float], age_years: npt.NDArray[np.float32], gender: Integers) -> None:
    """Count the mean loss terms of some images, each by the images that are labelled for it."""
    labelled = {"age": int(np.isfinite(age_years).sum()), "gender": int((gender >= 0).sum())}
    for name, value in terms.items():
        count = labelled["gender" if name.startswith("gender") else "age"]
        tally.add(name, value * count, count)


def weighted_loss(terms: Mapping[str, float], recipe: Recipe) -> float:
    """The loss that is minimised, from its mean terms; a term that is not there, over no labels, counts nothing."""
    weights = {
        "age_distribution": recipe.age_distribution_weight,
        "age_error": recipe.age_error_weight,
        "gender": recipe.gender_weight,
    }
    return sum(
        weight * terms[name] for name, weight in weights.items() if weight and math.isfinite(terms.get(name, math.nan))
    )


class Estimates(NamedTuple):
    """What the network says of some rows, in their order."""

    age_years: npt.NDArray[np.float32]
    age_spread_years: npt.NDArray[np.float32]
    gender_logit: npt.NDArray[np.float32]


@torch.no_grad()
def evaluate(
    network: FaceNetwork, samples: Samples, rows: Iterable[int], recipe: Recipe, device: torch.device
) -> tuple[Estimates, Tally]:
    """Run rows once through the network as it will be kept: float32, no augmentation.

    Args:
        network: averaged weights; images are resized to what it takes.
        samples: the validation part.
        rows: a rank's share of it.
        recipe: what the loss terms need.
        device: where the network is.

    Returns:
        Estimates per row; sums of the loss terms, ``age_error_years`` and ``gender_correct``.
    """
    training = network.training
    network.eval()
    wanted = np.fromiter(rows, np.int64)
    tally = Tally()
    said: list[list[npt.NDArray[np.float32]]] = []
    for start in range(0, len(wanted), EVALUATION_BATCH):
        share = wanted[start : start + EVALUATION_BATCH]
        batch = load_batch(samples, share, 0, 1, device)
        outputs: Outputs = network(resized(batch.images, network.config.image_size_px))
        _, terms = total_loss(outputs, batch.age_years_B, batch.gender_B, recipe)
        tally_terms(
            tally,
            {name: float(value) for name, value in terms.items()},
            samples.age_years[share],
            samples.gender[share],
        )
        columns = (outputs.age_years_B, outputs.age_spread_years(), outputs.gender_logit_B)
        said.append([column.float().cpu().numpy() for column in columns])
    network.train(training)
    none = [np.zeros(0, np.float32)] * 3
    estimates = Estimates(*(np.concatenate(parts) for parts in zip(none, *said, strict=True)))
    _tally_errors(tally, estimates, samples.age_years[wanted], samples.gender[wanted])
    return estimates, tally


def _tally_errors(tally: Tally, estimates: Estimates, age_years: npt.NDArray[np.float32], gender: Integers) -> None:
    labelled = np.isfinite(age_years)
    errors = np.abs(estimates.age_years[labelled].astype(np.float64) - age_years[labelled])
    tally.add("age_error_years", float(errors.sum()), int(labelled.sum()))
    known = gender >= 0
    correct = (estimates.gender_logit[known] > 0) == (gender[known] == 1)
    tally.add("gender_correct", float(correct.sum()), int(known.sum()))
