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
from torch.nn import functional

from agegender.model.transforms import augment
from agegender.recipe import Recipe

Integers = npt.NDArray[np.int64]

_ORDER, _DRAWS, _LAYERS = 1, 2, 3  # purposes of the random streams


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

    soft_targets: npt.NDArray[np.float16] | None = None
    """float16[N, A + 1]: the teachers' probabilities of the ages and of female (``distillation``); None: no teachers."""

    age_ranges: npt.NDArray[np.float32] | None = None
    """float32[N, 2], first and last whole year of each range of ages; NaN where there is none. None: no image has one."""

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
    """Weight of this share's mean in the mean over the global batch, times the number of shares; 1 if there is one share."""

    gender_share: float

    soft_targets_BX: Tensor | None = None
    """float32[B, A + 1], as ``Samples.soft_targets``."""

    age_ranges_B2: Tensor | None = None
    """float32[B, 2], as ``Samples.age_ranges``."""


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
        _share(int(samples.age_known[share].sum()), int(samples.age_known[rows].sum()), world_size),
        _share(int((gender >= 0).sum()), int((samples.gender[rows] >= 0).sum()), world_size),
        None
        if samples.soft_targets is None
        else torch.from_numpy(samples.soft_targets[share].astype(np.float32)).to(device),
        None if samples.age_ranges is None else torch.from_numpy(samples.age_ranges[share]).to(device),
    )


def resized(images: Tensor, side_px: int) -> Tensor:
    """Resize images with antialiasing, as a decoder would; the input itself if the size matches.

    Args:
        images: uint8 or float[B, 3, S, S].
        side_px: side of the result.
    """
    if images.shape[-1] == side_px:
        return images
    return functional.interpolate(images.float(), side_px, mode="bilinear", antialias=True)


def _share(labelled_here: int, labelled_in_batch: int, world_size: int) -> float:
    return world_size * labelled_here / labelled_in_batch if labelled_in_batch else 0.0


def augmented(batch: Batch, recipe: Recipe, place: tuple[int, int, int], crop_px: int) -> Batch:
    """Augment the images of a batch.

    Args:
        batch: as loaded.
        recipe: augmentation settings and seed.
        place: (epoch, step, rank), which seeds the random draws.
        crop_px: side of the central crop that the network sees.
    """
    generator = torch.Generator()  # on the CPU, so that the draws do not depend on the device
    generator.manual_seed(_stream(recipe.seed, _DRAWS, place))
    return batch._replace(images=augment(batch.images, recipe.augment, generator, crop_px))


def seed_step(seed: int, place: tuple[int, int, int]) -> None:
    """Seed the layers' random draws (dropout) of the step at ``place`` = (epoch, step, rank)."""
    torch.manual_seed(_stream(seed, _LAYERS, place))


def _stream(seed: int, purpose: int, place: tuple[int, int, int]) -> int:
    return int(np.random.SeedSequence((seed, purpose, *place)).generate_state(1, np.uint64)[0] >> 1)
