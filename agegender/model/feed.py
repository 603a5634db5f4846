"""The micro-batches of one rank, each loaded and augmented while the one before it trains."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from agegender.model import batches
from agegender.model.batches import Batch, Integers, Samples
from agegender.recipe import Recipe

Place = tuple[int, int, int]
"""Epoch, step in the epoch, index of the share among all shares of the step. Seeds every random draw."""


@dataclass(frozen=True)
class MicroBatch:
    """One rank's share of a step, or a part of that share with gradient accumulation."""

    place: Place
    index: int
    """0 to ``Feed.accumulate`` - 1."""

    rows: Integers
    """int64[B]: rows of the training samples."""

    batch: Batch
    step_images: int
    """Images of the global batch."""


@dataclass(frozen=True)
class Feed:
    """A rank's share of every step, in ``accumulate`` micro-batches.

    One rank that accumulates four micro-batches gets the shares of four ranks that accumulate none.
    """

    train: Samples
    recipe: Recipe
    rank: int
    world_size: int
    accumulate: int
    device: torch.device
    crop_px: int
    """Side of the central crop of each image, after augmentation."""

    side_px: int | None = None
    """Side of the whole image in the pixels of that crop; None: as the images are stored."""

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return batches.steps_per_epoch(len(self.train), self.recipe.batch_size)

    def micro_batches(self, epoch: int, first_step: int) -> Iterator[tuple[MicroBatch, float]]:
        """Yield the micro-batches of an epoch from ``first_step`` on, each with the seconds spent waiting for it."""
        order = batches.epoch_order(len(self.train), self.recipe.seed, epoch)
        places = [(step, index) for step in range(first_step, self.steps) for index in range(self.accumulate)]
        with ThreadPoolExecutor(1, "load") as loader:
            upcoming = loader.submit(self._micro_batch, order, epoch, *places[0])
            for following in [*places[1:], None]:
                started_s = time.perf_counter()
                micro_batch = upcoming.result()
                waited_s = time.perf_counter() - started_s
                # Loading may read the disk and runs partly on one core: overlap it with the training of this micro-batch.
                if following is not None:
                    upcoming = loader.submit(self._micro_batch, order, epoch, *following)
                yield micro_batch, waited_s

    def _micro_batch(self, order: Integers, epoch: int, step: int, index: int) -> MicroBatch:
        rows = batches.batch_rows(order, step, self.recipe.batch_size)
        share, shares = self.rank * self.accumulate + index, self.world_size * self.accumulate
        place = (epoch, step, share)
        batch = batches.load_batch(self.train, rows, share, shares, self.device)
        batch = batches.augmented(batch, self.recipe, place, self.crop_px, self.side_px)
        return MicroBatch(place, index, rows[batches.part_of(len(rows), share, shares)], batch, len(rows))
