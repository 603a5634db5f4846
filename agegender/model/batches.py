"""Which image is in which batch on which rank, and how it is varied there.

All of it follows from (seed, epoch, step, rank, ranks) alone, dropout and augmentation too: training goes on at any step
without a generator's state. An epoch's batches differ in size by one image at most, each image is in one of them, and
each rank takes the same number of steps.

Shapes: B images of one batch (a rank's share of it), S side in pixels.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from agegender.model.transforms import augment
from agegender.recipe import Recipe

Integers = npt.NDArray[np.int64]

_ORDER, _DRAWS, _LAYERS = 1, 2, 3  # what a random stream is for


@dataclass(frozen=True)
class Samples:
    """The images of one part and their labels, in one order."""

    pixels: npt.NDArray[np.uint8]
    """uint8[M, S, S, 3] RGB, memory-mapped or not; other parts may lie in it too."""

    rows: Integers
    """int64[N]: where in ``pixels`` each image is."""

    age_years: npt.NDArray[np.float32]
    """float32[N]; NaN where unlabelled."""

    gender: Integers
    """int64[N], 0 male, 1 female, -1 unlabelled."""

    taught: npt.NDArray[np.float16] | None = None
    """float16[N, A + 1]: what teachers say, probabilities of the ages and of female (``teaching``); None: there are none."""

    def __len__(self) -> int:
        return len(self.age_years)


class Batch(NamedTuple):
    """One share of a global batch, on its device: a rank's, or one of its micro-batches."""

    images: Tensor
    """uint8 or float32[B, 3, S, S], 0-255."""

    age_years_B: Tensor
    gender_B: Tensor

    age_share: float
    """What a mean over this share counts in the mean over the global batch, times the number of shares: 1 where it is the only one."""

    gender_share: float

    taught_BX: Tensor | None = None
    """float32[B, A + 1], as ``Samples.taught``."""


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Steps in which each image is used once and no batch is larger than ``batch_size``."""
    return math.ceil(images / batch_size)


def epoch_order(images: int, seed: int, epoch: int) -> Integers:
    """The order of one epoch: int64[N], a permutation of 0..N-1."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(images).astype(np.int64)


def part_of(total: int, index: int, parts: int) -> slice:
    """The ``index``-th of ``parts`` consecutive pieces of 0..total-1, which differ by one in size at most."""
    return slice(index * total // parts, (index + 1) * total // parts)


def batch_rows(order: Integers, step: int, batch_size: int) -> Integers:
    """The global batch of one step: rows of the training samples."""
    return order[part_of(len(order), step, steps_per_epoch(len(order), batch_size))]


def load_batch(samples: Samples, rows: Integers, rank: int, ranks: int, device: torch.device) -> Batch:
    """Copy a rank's share of a global batch out of the samples.

    Args:
        samples: the training part.
        rows: int64, the global batch.
        rank: 0..ranks-1.
        ranks: the batch is divided over so many.
        device: where to put it.
    """
    share = rows[part_of(len(rows), rank, ranks)]
    # A permuted view: the memory stays channels-last, as it was decoded and as convolutions like it.
    images = torch.from_numpy(samples.pixels[samples.rows[share]]).permute(0, 3, 1, 2).to(device, non_blocking=True)
    age, gender = samples.age_years[share], samples.gender[share]
    return Batch(
        images,
        torch.from_numpy(age).to(device),
        torch.from_numpy(gender).to(device),
        _share(int(np.isfinite(age).sum()), int(np.isfinite(samples.age_years[rows]).sum()), ranks),
        _share(int((gender >= 0).sum()), int((samples.gender[rows] >= 0).sum()), ranks),
        None if samples.taught is None else torch.from_numpy(samples.taught[share].astype(np.float32)).to(device),
    )


def resized(images: Tensor, side_px: int) -> Tensor:
    """Images of another side, if that is another, as a decoder would have made them.

    Args:
        images: uint8 or float[B, 3, S, S].
        side_px: of the result.
    """
    if images.shape[-1] == side_px:
        return images
    return functional.interpolate(images.float(), side_px, mode="bilinear", antialias=True)


def _share(labelled_here: int, labelled_in_batch: int, ranks: int) -> float:
    return ranks * labelled_here / labelled_in_batch if labelled_in_batch else 0.0


def augmented(batch: Batch, recipe: Recipe, place: tuple[int, int, int], crop_px: int) -> Batch:
    """Vary the images of a batch.

    Args:
        batch: as loaded.
        recipe: how, and the seed.
        place: (epoch, step, rank); the same place draws the same each time.
        crop_px: side of the middle that the network sees.
    """
    generator = torch.Generator()  # on the CPU, so that it draws the same for any device
    generator.manual_seed(_stream(recipe.seed, _DRAWS, place))
    return batch._replace(images=augment(batch.images, recipe.augment, generator, crop_px))


def seed_step(seed: int, place: tuple[int, int, int]) -> None:
    """Fix what layers draw (dropout) in the step at ``place`` = (epoch, step, rank)."""
    torch.manual_seed(_stream(seed, _LAYERS, place))


def _stream(seed: int, purpose: int, place: tuple[int, int, int]) -> int:
    return int(np.random.SeedSequence((seed, purpose, *place)).generate_state(1, np.uint64)[0] >> 1)
