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


def test_mixing_follows_from_its_place_alone_and_is_what_it_says() -> None:
    batch = batches.load_batch(_samples(6), np.arange(6), 0, 1, CPU)
    recipe, plain = Recipe(mixup_alpha=1.0), batches.augmented(batch, Recipe(), (1, 2, 0), 28)
    assert plain.mixed_with_B is None
    mixed, again = (batches.augmented(batch, recipe, (1, 2, 0), 28) for _ in range(2))
    assert mixed.mixed_with_B is not None and again.mixed_with_B is not None
    assert sorted(mixed.mixed_with_B.tolist()) == list(range(6))
    assert torch.equal(mixed.images, again.images) and mixed.own_share == again.own_share
    expected = mixed.own_share * plain.images + (1 - mixed.own_share) * plain.images[mixed.mixed_with_B]
    assert torch.allclose(mixed.images, expected, atol=1e-3)
    others = [batches.augmented(batch, recipe, place, 28) for place in ((2, 2, 0), (1, 3, 0), (1, 2, 1))]
    assert len({mixed.own_share, *(each.own_share for each in others)}) == 4


@pytest.mark.parametrize(("alpha", "spread"), [(0.2, 0.42), (1.0, 0.29)])
def test_shares_are_drawn_from_the_beta_distribution(alpha: float, spread: float) -> None:
    batch, recipe = batches.load_batch(_samples(2), np.arange(2), 0, 1, CPU), Recipe(mixup_alpha=alpha)
    shares = [batches.augmented(batch, recipe, (0, step, 0), 28).own_share for step in range(400)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.std(shares) == pytest.approx(spread, abs=0.03)  # 0.5 / sqrt(2 alpha + 1)


def test_shares_of_ranks_are_counted_in_weights() -> None:
    samples = replace(_samples(4), weights=np.array([1, 2, 3, 4], np.float32))
    samples.age_years[1], samples.gender[3] = np.nan, -1
    first, second = (batches.load_batch(samples, np.arange(4), rank, 2, CPU) for rank in range(2))
    assert (first.age_share, second.age_share) == pytest.approx((2 * 1 / 8, 2 * 7 / 8))
    assert (first.gender_share, second.gender_share) == pytest.approx((2 * 3 / 6, 2 * 3 / 6))
    assert second.weights_B is not None and second.weights_B.tolist() == [3, 4]


def test_images_that_are_on_the_device_give_the_same_batches() -> None:
    samples = _samples(10)
    resident = replace(samples, device_pixels=torch.from_numpy(samples.pixels.copy()), pixels=samples.pixels * 0)
    rows = np.array([7, 0, 3])
    ours, theirs = (batches.load_batch(each, rows, 0, 1, CPU).images for each in (resident, samples))
    assert torch.equal(ours, theirs)
    assert ours.stride() == theirs.stride()
