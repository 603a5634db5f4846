"""The batches of one rank of a training run, each loaded and varied while the one before it trains."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from agegender.model import batches
from agegender.model.batches import Batch, Integers, Samples
from agegender.recipe import Recipe

Place = tuple[int, int, int]
"""Epoch, step in it, and which of all the shares of that step; all that is drawn by chance follows from it."""


@dataclass(frozen=True)
class Piece:
    """One micro-batch of one rank: its whole share of a step, or a part of it."""

    place: Place
    part: int
    """0 .. the feed's ``parts`` - 1."""

    rows: Integers
    """Of the training samples."""

    batch: Batch
    step_images: int
    """Of the global batch."""


@dataclass(frozen=True)
class Feed:
    """A rank's share of every step, divided into ``parts`` micro-batches.

    One rank with four parts sees the shares of four ranks with one.
    """

    train: Samples
    recipe: Recipe
    rank: int
    ranks: int
    parts: int
    device: torch.device
    crop_px: int

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return batches.steps_per_epoch(len(self.train), self.recipe.batch_size)

    def pieces(self, epoch: int, first_step: int) -> Iterator[tuple[Piece, float]]:
        """What this rank trains on in an epoch, from a step on, each with the seconds that it was waited for."""
        order = batches.epoch_order(len(self.train), self.recipe.seed, epoch)
        places = [(step, part) for step in range(first_step, self.steps) for part in range(self.parts)]
        with ThreadPoolExecutor(1, "load") as loader:
            coming = loader.submit(self._piece, order, epoch, *places[0])
            for following in [*places[1:], None]:
                asked_s = time.perf_counter()
                piece = coming.result()
                waited_s = time.perf_counter() - asked_s
                # Loading may read the disk, and half of it runs on one core: it goes on while this piece trains.
                if following is not None:
                    coming = loader.submit(self._piece, order, epoch, *following)
                yield piece, waited_s

    def _piece(self, order: Integers, epoch: int, step: int, part: int) -> Piece:
        rows = batches.batch_rows(order, step, self.recipe.batch_size)
        share, shares = self.rank * self.parts + part, self.ranks * self.parts
        place = (epoch, step, share)
        batch = batches.load_batch(self.train, rows, share, shares, self.device)
        batch = batches.augmented(batch, self.recipe, place, self.crop_px)
        return Piece(place, part, rows[batches.part_of(len(rows), share, shares)], batch, len(rows))
