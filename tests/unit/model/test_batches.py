from dataclasses import replace

import numpy as np
import pytest
import torch

from agegender.model import batches
from agegender.recipe import Recipe

CPU = torch.device("cpu")


def _samples(count: int) -> batches.Samples:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    ages = random.uniform(1, 90, count).astype(np.float32)
    return batches.Samples(pixels, np.arange(count), ages, random.integers(0, 2, count).astype(np.int64))


@pytest.mark.parametrize("images", [1, 7, 64, 100, 101, 257])
@pytest.mark.parametrize("batch_size", [1, 8, 32, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_each_image_is_used_once_per_epoch(images: int, batch_size: int, world_size: int) -> None:
    order = batches.epoch_order(images, seed=3, epoch=1)
    steps = batches.steps_per_epoch(images, batch_size)
    per_step = [batches.batch_rows(order, step, batch_size) for step in range(steps)]
    sizes = [len(batch) for batch in per_step]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    shares = [batch[batches.part_of(len(batch), rank, world_size)] for batch in per_step for rank in range(world_size)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(images))
    for batch in per_step:
        counts = [len(batch[batches.part_of(len(batch), rank, world_size)]) for rank in range(world_size)]
        assert max(counts) - min(counts) <= 1


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    first = batches.epoch_order(100, 1, 2)
    assert np.array_equal(first, batches.epoch_order(100, 1, 2))
    assert not np.array_equal(first, batches.epoch_order(100, 1, 3))
    assert not np.array_equal(first, batches.epoch_order(100, 2, 2))


def test_augmentation_follows_from_its_place_alone() -> None:
    recipe, samples = Recipe(), _samples(6)
    batch = batches.load_batch(samples, np.arange(6), 0, 1, CPU)
    first, again = (batches.augmented(batch, recipe, (1, 2, 0), 28).images for _ in range(2))
    assert torch.equal(first, again)
    for place in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not torch.equal(first, batches.augmented(batch, recipe, place, 28).images)


def test_batches_show_the_rows_asked_for() -> None:
    whole = _samples(10)
    samples = batches.Samples(whole.pixels, np.array([9, 4, 2]), whole.age_years[[9, 4, 2]], whole.gender[[9, 4, 2]])
    batch = batches.load_batch(samples, np.array([2, 0]), 0, 1, CPU)
    assert np.array_equal(batch.images.permute(0, 2, 3, 1).numpy(), whole.pixels[[2, 9]])
    assert batch.age_years_B.tolist() == whole.age_years[[2, 9]].tolist()


def test_images_that_are_on_the_device_give_the_same_batches() -> None:
    samples = _samples(10)
    resident = replace(samples, device_pixels=torch.from_numpy(samples.pixels.copy()), pixels=samples.pixels * 0)
    rows = np.array([7, 0, 3])
    ours, theirs = (batches.load_batch(each, rows, 0, 1, CPU).images for each in (resident, samples))
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()
