"""Which image is in which batch on which rank, and how it is augmented.

Everything, dropout and augmentation included, is derived from (seed, epoch, step, rank, world_size): training resumes at any
step without a generator's state. The batches of an epoch differ in size by at most one image, contain each image once, and
give each rank the same number of steps.

Shapes: B images of one batch (a rank's share of it), S side in pixels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agegender.model.transforms import augment
from agegender.recipe import Recipe

Integers = npt.NDArray[np.int64]

_ORDER, _DRAWS, _LAYERS, _MIXTURE = 1, 2, 3, 4  # purposes of the random streams


@dataclass(frozen=True)
class Samples:
    """The images and labels of one part, in the same order."""

    pixels: npt.NDArray[np.uint8]
    """uint8[M, S, S, 3] RGB, memory-mapped or not; may contain other parts as well."""

    rows: Integers
    """int64[N]: index of each image in ``pixels``."""

    age_years: npt.NDArray[np.float32]
    """float32[N], exact ages; NaN where unlabelled or labelled with a range."""

    gender: Integers
    """int64[N], 0 male, 1 female, -1 unlabelled."""

    age_ranges: npt.NDArray[np.float32] | None = None
    """float32[N, 2], first and last whole year of each range of ages; NaN where there is none. None: no image has one."""

    weights: npt.NDArray[np.float32] | None = None
    """float32[N], >= 0: what an image counts in the training losses, beside the others; None: all the same."""

    sources: Integers | None = None
    """int64[N]: index of each image's source; None: they are not told apart."""

    device_pixels: Tensor | None = None
    """``pixels`` on the device that trains, from which batches are then taken; None: they are copied there batch by batch."""

    @property
    def age_known(self) -> npt.NDArray[np.bool_]:
        """bool[N]: images with an exact age or a range."""
        known = np.isfinite(self.age_years)
        return known if self.age_ranges is None else known | np.isfinite(self.age_ranges[:, 0])

    def __len__(self) -> int:
        return len(self.age_years)


class Batch(NamedTuple):
    """A rank's share of a global batch, or one micro-batch of it, on its device."""

    images: Tensor
    """uint8 or float32[B, 3, S, S], 0-255."""

    age_years_B: Tensor
    gender_B: Tensor

    age_share: float
    """Weight of this share's mean in the mean over the global batch, times the number of shares; 1 if there is one share.
    Counted in labelled images, or in their weights."""

    gender_share: float

    soft_targets_BX: Tensor | None = None
    """float32[B, A + 1], the teachers' probabilities of the ages and of female (``distillation``); None: no teachers."""

    age_ranges_B2: Tensor | None = None
    """float32[B, 2], as ``Samples.age_ranges``."""

    weights_B: Tensor | None = None
    """float32[B], as ``Samples.weights``."""

    mixed_with_B: Tensor | None = None
    """int64[B], a permutation: the row whose image is mixed into each image (mixup); None: images are not mixed."""

    own_share: float = 1.0
    """Share of its own image and labels in each row, 0-1; those of ``mixed_with_B`` have the rest."""


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Steps that use each image once with batches of at most ``batch_size``."""
    return math.ceil(images / batch_size)


def epoch_order(images: int, seed: int, epoch: int) -> Integers:
    """The order of one epoch: int64[N], a permutation of 0..N-1."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(images).astype(np.int64)


def part_of(total: int, index: int, parts: int) -> slice:
    """The ``index``-th of ``parts`` consecutive slices of 0..total-1, whose sizes differ by at most one."""
    return slice(index * total // parts, (index + 1) * total // parts)


def batch_rows(order: Integers, step: int, batch_size: int) -> Integers:
    """The global batch of one step: rows of the training samples."""
    return order[part_of(len(order), step, steps_per_epoch(len(order), batch_size))]


def load_batch(samples: Samples, rows: Integers, rank: int, world_size: int, device: torch.device) -> Batch:
    """Copy a rank's share of a global batch out of the samples.

    Args:
        samples: the training part.
        rows: int64, the global batch.
        rank: 0 to ``world_size`` - 1.
        world_size: number of shares of the batch.
        device: to copy it to.
    """
    share = rows[part_of(len(rows), rank, world_size)]
    if samples.device_pixels is not None:
        pixels = samples.device_pixels[torch.from_numpy(samples.rows[share]).to(device)]
    else:
        pixels = torch.from_numpy(samples.pixels[samples.rows[share]]).to(device, non_blocking=True)
    # A permuted view: the memory stays channels-last, as decoded, which convolutions are faster on.
    images = pixels.permute(0, 3, 1, 2)
    age, gender = samples.age_years[share], samples.gender[share]
    return Batch(
        images,
        torch.from_numpy(age).to(device),
        torch.from_numpy(gender).to(device),
        _share(samples, samples.age_known, share, rows, world_size),
        _share(samples, samples.gender >= 0, share, rows, world_size),
        age_ranges_B2=None if samples.age_ranges is None else torch.from_numpy(samples.age_ranges[share]).to(device),
        weights_B=None if samples.weights is None else torch.from_numpy(samples.weights[share]).to(device),
    )


def _share(
    samples: Samples, labelled: npt.NDArray[np.bool_], here: Integers, in_batch: Integers, world_size: int
) -> float:
    """``world_size`` times the share of the batch's labelled images that are here, each counted by its weight."""

    def count(rows: Integers) -> float:
        return float(labelled[rows].sum() if samples.weights is None else samples.weights[rows][labelled[rows]].sum())

    total = count(in_batch)
    return world_size * count(here) / total if total else 0.0


def augmented(
    batch: Batch, recipe: Recipe, place: tuple[int, int, int], crop_px: int, side_px: int | None = None
) -> Batch:
    """Augment the images of a batch, and mix them if the recipe says so.

    Args:
        batch: as loaded.
        recipe: augmentation settings and seed.
        place: (epoch, step, rank), which seeds the random draws.
        crop_px: side of the central crop that is kept.
        side_px: side of the whole image in the pixels of the crop; None: as loaded.
    """
    generator = torch.Generator()  # on the CPU, so that the draws do not depend on the device
    generator.manual_seed(_stream(recipe.seed, _DRAWS, place))
    images = augment(batch.images, recipe.augment, generator, crop_px, side_px)
    return _mixed(batch._replace(images=images), recipe, place)


def _mixed(batch: Batch, recipe: Recipe, place: tuple[int, int, int]) -> Batch:
    """Mixup (Zhang et al., 2018): each image is a weighted mean of two, with one weight for the whole batch.

    With one weight, all labels of the batch together count as much as before, in each rank and over all.
    """
    if recipe.mixup_alpha == 0:
        return batch
    random = np.random.default_rng((recipe.seed, _MIXTURE, *place))
    own_share = float(random.beta(recipe.mixup_alpha, recipe.mixup_alpha))
    mixed_with_B = torch.from_numpy(random.permutation(len(batch.images))).to(batch.images.device)
    images = batch.images.float()
    images = torch.lerp(images[mixed_with_B], images, own_share)
    return batch._replace(images=images, mixed_with_B=mixed_with_B, own_share=own_share)


def seed_step(seed: int, place: tuple[int, int, int]) -> None:
    """Seed the layers' random draws (dropout) of the step at ``place`` = (epoch, step, rank)."""
    torch.manual_seed(_stream(seed, _LAYERS, place))


def _stream(seed: int, purpose: int, place: tuple[int, int, int]) -> int:
    return int(np.random.SeedSequence((seed, purpose, *place)).generate_state(1, np.uint64)[0] >> 1)
