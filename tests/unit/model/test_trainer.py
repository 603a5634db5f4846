import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from agegender.artifact import NetworkConfig
from agegender.model import batches, trainer
from agegender.model.losses import total_loss
from agegender.model.network import FaceNetwork, build_network
from agegender.model.optimizer import make_optimizer
from agegender.recipe import Recipe
from tests.support.drawn import UNVARIED

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other on a busy machine make these small steps fifty times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _network(backbone: str = "notebook", seed: int = 0) -> FaceNetwork:
    torch.manual_seed(seed)
    return build_network(NetworkConfig(backbone=backbone, age_head="distribution", image_size_px=32))


def _samples(count: int, seed: int = 0) -> batches.Samples:
    """Grey squares: the age is the brightness of the left half, the gender that of the right."""
    random = np.random.default_rng(seed)
    ages = random.uniform(1, 90, count).astype(np.float32)
    genders = random.integers(0, 2, count).astype(np.int64)
    pixels = random.integers(0, 20, (count, 32, 32, 3)).astype(np.uint8)
    pixels[:, :, :16] += (2 * ages).astype(np.uint8)[:, None, None, None]
    pixels[:, :, 16:] += (150 * genders).astype(np.uint8)[:, None, None, None]
    return batches.Samples(pixels, np.arange(count), ages, genders)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_take_the_step_of_one(world_size: int) -> None:
    """Averaged over ranks, the gradient is that of the global batch, also where images and labels fall unevenly."""
    samples = _samples(10)
    samples.age_years[[0, 1, 2, 7]] = np.nan
    samples.gender[[3, 9]] = -1
    recipe = Recipe(gradient_clip_norm=0, augment=UNVARIED)
    network = _network()
    network.eval()  # no dropout
    rows = np.arange(10)

    def gradient(rank: int, of: int) -> torch.Tensor:
        batch = batches.load_batch(samples, rows, rank, of, CPU)
        loss, _ = total_loss(
            network(batch.images), batch.age_years_B, batch.gender_B, trainer._scaled_recipe(recipe, batch)
        )
        network.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    whole = gradient(0, 1)
    averaged = torch.stack([gradient(rank, world_size) for rank in range(world_size)]).mean(dim=0)
    assert torch.allclose(averaged, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip_norm", [0.0, 0.2])
@pytest.mark.parametrize("parts", [2, 3, 7])
def test_micro_batches_together_take_the_step_of_the_undivided_batch(parts: int, clip_norm: float) -> None:
    """Also where one of them has no label at all."""
    samples = _samples(10)
    samples.age_years[[0, 1, 2, 7]] = np.nan
    samples.gender[[3, 9]] = -1
    recipe = Recipe(gradient_clip_norm=clip_norm, augment=UNVARIED)

    def moved(of: int) -> torch.Tensor:
        network = _network()
        for layer in network.modules():
            if isinstance(layer, torch.nn.Dropout):
                layer.p = 0.0
        before = torch.cat([p.detach().flatten() for p in network.parameters()])
        optimizer = torch.optim.SGD(network.parameters())  # whose step is as long as the gradient, unlike ours
        for part in range(of):
            batch = batches.load_batch(samples, np.arange(10), part, of, CPU)
            trainer.train_step(network, optimizer, batch, recipe, 1.0, "float32", part, of)
        return torch.cat([p.detach().flatten() for p in network.parameters()]) - before

    whole = moved(1)
    assert whole.norm() > 0.1
    assert torch.allclose(moved(parts), whole, rtol=1e-4, atol=1e-5)


def test_one_cycle_warms_up_and_ends_at_zero() -> None:
    recipe = Recipe(learning_rate=1.0, schedule="one-cycle", warmup_fraction=0.2)
    rates = [trainer.learning_rate_at(step, 100, recipe) for step in range(100)]
    assert 0 < rates[0] < 0.1
    assert max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) == 20
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001


def test_constant_schedule_is_constant() -> None:
    recipe = Recipe(learning_rate=0.5, schedule="constant")
    assert {trainer.learning_rate_at(step, 10, recipe) for step in range(10)} == {0.5}


def test_average_follows_early_and_slowly_later() -> None:
    network = _network("compact")
    averaged = trainer.averaged_copy(network, Recipe(ema_decay=0.9))
    before = averaged.age_head.weight.clone()
    with torch.no_grad():
        network.age_head.weight += 1
    trainer.update_average(averaged, network, 0.9, step=0)
    assert torch.allclose(averaged.age_head.weight, before + 0.9, atol=1e-5)  # decay (1 + 0) / (10 + 0)
    now = averaged.age_head.weight.clone()
    trainer.update_average(averaged, network, 0.9, step=10_000)
    assert torch.allclose(averaged.age_head.weight, now + 0.1 * (network.age_head.weight - now), atol=1e-5)


def test_without_averaging_the_network_itself_is_kept() -> None:
    network = _network()
    assert trainer.averaged_copy(network, Recipe(ema_decay=0)) is network


def test_tally_does_not_depend_on_how_images_were_divided() -> None:
    samples = _samples(11)
    samples.age_years[3], samples.gender[4] = np.nan, -1
    network, recipe = _network(), Recipe()
    estimates, whole = trainer.evaluate(network, samples, range(11), recipe, CPU)
    parts = [trainer.evaluate(network, samples, rows, recipe, CPU) for rows in (range(4), range(4, 11), range(0))]
    merged = trainer.Tally()
    for _, tally in parts:
        for name, total in tally.sums.items():
            merged.add(name, total, tally.counts[name])
    assert merged.counts == whole.counts
    assert whole.counts["age_error_years"] == whole.counts["gender_correct"] == 10
    for name, value in whole.means().items():
        assert merged.means()[name] == pytest.approx(value, rel=1e-5)
    joined = np.concatenate([part.age_years for part, _ in parts])
    assert np.allclose(joined, estimates.age_years, atol=1e-3)


def test_images_are_resized_to_what_the_network_takes() -> None:
    network, samples = _network("compact").eval(), _samples(5)
    shown = batches.resized(torch.from_numpy(samples.pixels).permute(0, 3, 1, 2), 24)
    network.config = network.config.model_copy(update={"image_size_px": 24})
    estimates, _ = trainer.evaluate(network, samples, range(5), Recipe(), CPU)
    with torch.no_grad():
        assert np.allclose(estimates.age_years, network(shown).age_years_B, atol=1e-4)


def test_what_nobody_labelled_counts_nothing() -> None:
    samples = _samples(4)
    samples.gender[:] = -1
    _, tally = trainer.evaluate(_network(), samples, range(4), Recipe(), CPU)
    means = tally.means()
    assert "gender" not in means
    assert "gender_correct" not in means
    assert math.isfinite(trainer.weighted_loss(means, Recipe()))


def test_learns_a_plain_relation() -> None:
    recipe = Recipe(learning_rate=3e-3, ema_decay=0.9, augment=UNVARIED)
    train, val = _samples(256), _samples(64, seed=1)
    network = _network("compact")
    averaged = trainer.averaged_copy(network, recipe)
    optimizer = make_optimizer(network, recipe)
    _, untrained = trainer.evaluate(averaged, val, range(64), recipe, CPU)
    step, epochs, steps = 0, 10, batches.steps_per_epoch(256, 32)
    for epoch in range(epochs):
        order = batches.epoch_order(256, 0, epoch)
        for in_epoch in range(steps):
            batch = batches.load_batch(train, batches.batch_rows(order, in_epoch, 32), 0, 1, CPU)
            rate = trainer.learning_rate_at(step, epochs * steps, recipe)
            trainer.train_step(network, optimizer, batch, recipe, rate, "float32")
            trainer.update_average(averaged, network, recipe.ema_decay, step)
            step += 1
    _, trained = trainer.evaluate(averaged, val, range(64), recipe, CPU)
    assert trained.means()["age_error_years"] < 8 < untrained.means()["age_error_years"]
    assert trained.means()["gender_correct"] > 0.9


def test_precision_asked_for_is_precision_used() -> None:
    assert trainer.resolve_precision("float32", CPU) == "float32"
    assert trainer.resolve_precision("bfloat16", CPU) == "bfloat16"
    assert trainer.resolve_precision("auto", CPU) in ("float32", "bfloat16")


def test_bfloat16_steps_give_finite_float32_weights() -> None:
    recipe, samples, network = Recipe(), _samples(8), _network("compact")
    batch = batches.load_batch(samples, np.arange(8), 0, 1, CPU)
    terms = trainer.train_step(network, make_optimizer(network, recipe), batch, recipe, 1e-3, "bfloat16")
    assert all(math.isfinite(float(value)) for value in terms.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in network.parameters())


def test_ranges_are_learnt_and_measured_apart() -> None:
    """Ages known only by their decade: the estimates end near the decade, though no exact age was seen."""
    samples = _samples(48)
    low = np.floor(samples.age_years / 10) * 10
    ranges = np.stack([low, low + 9], axis=1).astype(np.float32)
    ranged = dataclasses.replace(samples, age_years=np.full_like(samples.age_years, np.nan), age_ranges=ranges)
    assert ranged.age_known.all()
    network, recipe = _network("compact"), Recipe(learning_rate=3e-3, augment=UNVARIED)
    optimizer = make_optimizer(network, recipe)
    before = trainer.evaluate(network, ranged, range(48), recipe, CPU)[1].means()
    for step in range(60):
        batch = batches.load_batch(ranged, batches.batch_rows(np.arange(48), step % 3, 16), 0, 1, CPU)
        trainer.train_step(network, optimizer, batch, recipe, 3e-3, "float32")
    after = trainer.evaluate(network, ranged, range(48), recipe, CPU)[1].means()
    assert "age_error_years" not in after
    assert after["years_to_range"] < 0.6 * before["years_to_range"]
