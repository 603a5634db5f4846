import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from agegender.artifact import NetworkConfig
from agegender.model import batches, trainer
from agegender.model.losses import total_loss
from agegender.model.network import FaceNetwork, Outputs, build_network
from agegender.model.optimizer import make_optimizer
from agegender.model.transforms import resized
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


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_take_the_step_of_one(world_size: int, weighted: bool) -> None:
    """Averaged over ranks, the gradient is that of the global batch, also where images and labels fall unevenly."""
    samples = _samples(10)
    samples.age_years[[0, 1, 2, 7]] = np.nan
    samples.gender[[3, 9]] = -1
    if weighted:
        samples = dataclasses.replace(samples, weights=np.linspace(0.02, 3, 10, dtype=np.float32))
    recipe = Recipe(gradient_clip_norm=0, augment=UNVARIED)
    network = _network()
    network.eval()  # no dropout
    rows = np.arange(10)

    def gradient(rank: int, of: int) -> torch.Tensor:
        batch = batches.load_batch(samples, rows, rank, of, CPU)
        loss, _ = trainer.batch_loss(network(batch.images), batch, trainer._scaled_recipe(recipe, batch))
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
    shown = resized(torch.from_numpy(samples.pixels).permute(0, 3, 1, 2), 24)
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


def _outputs(rows: int) -> Outputs:
    logits = torch.randn(rows, 121, generator=torch.Generator().manual_seed(rows))
    return Outputs(logits.softmax(1) @ torch.arange(121.0), logits, torch.linspace(-2, 2, rows))


def _labelled(samples: batches.Samples) -> batches.Samples:
    """The first rows: a range; no age; no gender; neither."""
    samples.age_years[[0, 1, 3]] = np.nan
    samples.gender[[2, 3]] = -1
    ranges = np.full((len(samples), 2), np.nan, np.float32)
    ranges[0] = 20, 29
    return dataclasses.replace(samples, age_ranges=ranges)


def test_a_weight_is_a_number_of_repetitions() -> None:
    samples = _labelled(_samples(6))
    counts = np.array([2, 1, 0, 3, 4, 1])
    repeated, outputs = np.repeat(np.arange(6), counts), _outputs(6)
    weighted = dataclasses.replace(samples, weights=(counts / 8).astype(np.float32))
    loss, terms = trainer.batch_loss(outputs, batches.load_batch(weighted, np.arange(6), 0, 1, CPU), Recipe())
    again = Outputs(*(value[repeated] for value in outputs if value is not None))
    expected, each = trainer.batch_loss(again, batches.load_batch(samples, repeated, 0, 1, CPU), Recipe())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {name: term.item() for name, term in each.items()}, rel=1e-5
    )
    tally, plain = trainer.Tally(), trainer.Tally()
    values = {name: float(term) for name, term in terms.items()}
    trainer.tally_terms(tally, values, samples.age_known, samples.gender, weighted.weights)
    trainer.tally_terms(plain, values, samples.age_known[repeated], samples.gender[repeated])
    assert {name: 8 * count for name, count in tally.counts.items()} == plain.counts
    equal = dataclasses.replace(samples, weights=np.full(6, 0.01, np.float32))
    batch = batches.load_batch(equal, np.arange(6), 0, 1, CPU)
    alone = batches.load_batch(samples, np.arange(6), 0, 1, CPU)
    assert trainer.batch_loss(outputs, batch, Recipe())[0].item() == pytest.approx(
        trainer.batch_loss(outputs, alone, Recipe())[0].item(), rel=1e-5
    )
    nothing = dataclasses.replace(samples, weights=np.zeros(6, np.float32))
    batch = batches.load_batch(nothing, np.arange(6), 0, 1, CPU)
    assert trainer.batch_loss(outputs, batch, Recipe())[0].item() == batch.age_share == batch.gender_share == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_mixed_labels_count_by_their_shares(weighted: bool) -> None:
    """Each row's loss against each of its two labels, by hand, one row at a time; a range and missing labels among them."""
    samples = _labelled(_samples(6))
    weights = np.array([2, 1, 3, 1, 0.5, 1], np.float32) if weighted else np.ones(6, np.float32)
    if weighted:
        samples = dataclasses.replace(samples, weights=weights)
    partners, share = torch.tensor([4, 0, 5, 1, 2, 3]), 0.7
    batch = batches.load_batch(samples, np.arange(6), 0, 1, CPU)._replace(mixed_with_B=partners, own_share=share)
    outputs, recipe = _outputs(6), Recipe()
    assert outputs.age_logits_BA is not None
    years, logits, gender_logits = outputs.age_years_B, outputs.age_logits_BA, outputs.gender_logit_B
    sums = {"age": 0.0, "gender": 0.0}
    for row in range(6):
        one = Outputs(years[row : row + 1], logits[row : row + 1], gender_logits[row : row + 1])
        for other, part in ((row, share), (int(partners[row]), 1 - share)):
            label = batches.load_batch(samples, np.array([other]), 0, 1, CPU)
            _, terms = total_loss(one, label.age_years_B, label.gender_B, recipe, None, label.age_ranges_B2)
            age = (
                recipe.age_distribution_weight * terms["age_distribution"]
                + recipe.age_error_weight * terms["age_error"]
            )
            sums["age"] += part * float(weights[other] * age)
            sums["gender"] += part * float(weights[other] * terms["gender"])
    counts = {"age": weights[samples.age_known].sum(), "gender": weights[samples.gender >= 0].sum()}
    expected = sums["age"] / counts["age"] + recipe.gender_weight * sums["gender"] / counts["gender"]
    loss, terms = trainer.batch_loss(outputs, batch, recipe)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert terms["gender"].item() == pytest.approx(sums["gender"] / counts["gender"], rel=1e-5)


def test_what_a_teacher_says_of_a_mixed_image_is_the_target_beside_either_label() -> None:
    samples = _samples(4)
    soft = torch.rand(4, 122).softmax(dim=1)
    batch = batches.load_batch(samples, np.arange(4), 0, 1, CPU)._replace(soft_targets_BX=soft)
    mixed = batch._replace(mixed_with_B=torch.tensor([1, 2, 3, 0]), own_share=0.6)
    recipe, outputs = Recipe(teacher_weight=1.0), _outputs(4)
    unmixed, _ = trainer.batch_loss(outputs, batch, recipe)
    assert trainer.batch_loss(outputs, mixed, recipe)[0].item() == pytest.approx(unmixed.item(), rel=1e-5)
    half = recipe.model_copy(update={"teacher_weight": 0.5})
    assert trainer.batch_loss(outputs, mixed, half)[0].item() != pytest.approx(
        trainer.batch_loss(outputs, batch, half)[0].item(), rel=1e-3
    )


def test_ranks_that_mix_their_own_images_add_up() -> None:
    """The sum over ranks is the mean over all labels of the global batch, each by its share, though no rank knows the others'."""
    samples = dataclasses.replace(_labelled(_samples(9)), weights=np.linspace(0.5, 2, 9, dtype=np.float32))
    recipe, rows, ranks = Recipe(mixup_alpha=1.0, augment=UNVARIED), np.arange(9), 2
    losses, sums, counts = [], {"age": 0.0, "gender": 0.0}, {"age": 0.0, "gender": 0.0}
    assert samples.weights is not None
    for rank in range(ranks):
        batch = batches.augmented(batches.load_batch(samples, rows, rank, ranks, CPU), recipe, (0, 0, rank), 32)
        outputs = _outputs(len(batch.images))
        losses.append(trainer.batch_loss(outputs, batch, trainer._scaled_recipe(recipe, batch))[0].item())
        _, terms = trainer.batch_loss(outputs, batch, recipe)
        share = rows[batches.part_of(9, rank, ranks)]
        here = {"age": samples.weights[share][samples.age_known[share]].sum()}
        here["gender"] = samples.weights[share][samples.gender[share] >= 0].sum()
        age = recipe.age_distribution_weight * terms["age_distribution"] + recipe.age_error_weight * terms["age_error"]
        sums["age"] += float(here["age"] * age)
        sums["gender"] += float(here["gender"] * recipe.gender_weight * terms["gender"])
        counts = {name: counts[name] + here[name] for name in counts}
    expected = sums["age"] / counts["age"] + sums["gender"] / counts["gender"]
    assert sum(losses) / ranks == pytest.approx(expected, rel=1e-5)
