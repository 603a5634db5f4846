import math

import numpy as np
import pytest
import torch

from agegender.model.losses import age_distribution_loss, age_error_loss, age_targets, gender_loss, total_loss
from agegender.model.network import Outputs
from agegender.recipe import Recipe

NAN = float("nan")


def test_targets_sum_to_one_and_their_mean_is_the_age_away_from_the_ends():
    targets = age_targets(torch.tensor([0.0, 26.0, 37.4, 120.0]), 2.5, 121)
    assert targets.sum(dim=1).tolist() == pytest.approx([1.0] * 4, abs=1e-6)
    means = targets @ torch.arange(121.0)
    assert means[1:3].tolist() == pytest.approx([26.0, 37.4], abs=1e-4)
    assert targets.argmax(dim=1).tolist() == [0, 26, 37, 120]


def test_divergence_from_a_flat_estimate_is_log_bins_less_the_gaussian_entropy():
    # entropy of a normal distribution: half of ln(2 pi e sigma^2)
    expected = math.log(121) - 0.5 * math.log(2 * math.pi * math.e * 2.5**2)
    loss = age_distribution_loss(torch.zeros(2, 121), torch.tensor([40.0, 61.0]), 2.5)
    assert loss.item() == pytest.approx(expected, abs=1e-4)
    assert loss.item() == pytest.approx(2.46055, abs=1e-4)


def test_divergence_agrees_with_numpy_in_double_precision():
    logits = np.random.default_rng(0).normal(size=(3, 121))
    ages = np.array([1.0, 33.0, 118.0])
    weight = np.exp(-0.5 * ((np.arange(121) - ages[:, None]) / 3.0) ** 2)
    target = weight / weight.sum(axis=1, keepdims=True)
    estimate = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(target > 0, target * np.log(target / estimate), 0.0)
    loss = age_distribution_loss(
        torch.tensor(logits, dtype=torch.float32), torch.tensor(ages, dtype=torch.float32), 3.0
    )
    assert loss.item() == pytest.approx(terms.sum(axis=1).mean(), rel=1e-5)


def test_divergence_is_zero_at_the_target_and_nowhere_below():
    ages = torch.tensor([0.0, 50.0])
    best = age_targets(ages, 2.5, 121).clamp(min=1e-38).log()
    assert age_distribution_loss(best, ages, 2.5).item() == pytest.approx(0.0, abs=1e-6)
    assert age_distribution_loss(best + 0.1 * torch.randn(2, 121), ages, 2.5).item() > 0


def test_error_and_entropy_have_their_known_values():
    assert age_error_loss(torch.tensor([30.0, 40.0]), torch.tensor([33.0, 39.0])).item() == 2.0
    assert gender_loss(torch.tensor([0.0, 0.0]), torch.tensor([0, 1])).item() == pytest.approx(math.log(2))
    assert gender_loss(torch.tensor([2.0]), torch.tensor([1])).item() == pytest.approx(0.126928, abs=1e-6)
    assert gender_loss(torch.tensor([2.0]), torch.tensor([0])).item() == pytest.approx(2.126928, abs=1e-6)


def test_unlabelled_rows_change_neither_mean_nor_gradient():
    logits = torch.randn(3, 121, requires_grad=True)
    gender_logits = torch.tensor([1.0, -2.0, 5.0], requires_grad=True)
    ages = torch.tensor([20.0, NAN, 40.0])
    genders = torch.tensor([1, 0, -1])
    both = age_distribution_loss(logits, ages, 2.5)
    assert both.item() == pytest.approx(age_distribution_loss(logits[[0, 2]], ages[[0, 2]], 2.5).item(), rel=1e-6)
    (both + gender_loss(gender_logits, genders)).backward()
    assert logits.grad is not None and gender_logits.grad is not None
    assert logits.grad[1].abs().max() == 0 and logits.grad[0].abs().max() > 0
    assert gender_logits.grad[2] == 0 and gender_logits.grad[0] != 0


@pytest.mark.parametrize("head", ["distribution", "scalar"])
def test_a_batch_without_labels_is_zero_with_a_live_finite_graph(head):
    logits = torch.randn(4, 121, requires_grad=True)
    years = logits.softmax(1) @ torch.arange(121.0)
    gender = torch.randn(4, requires_grad=True)
    outputs = Outputs(years, logits if head == "distribution" else None, gender)
    total, terms = total_loss(outputs, torch.full((4,), NAN), torch.full((4,), -1), Recipe())
    total.backward()
    assert total.item() == 0 and all(term.item() == 0 for term in terms.values())
    assert logits.grad is not None and logits.grad.abs().max() == 0
    assert gender.grad is not None and gender.grad.abs().max() == 0


def test_total_is_the_weighted_sum_of_the_terms_that_the_head_has():
    logits = torch.randn(5, 121)
    outputs = Outputs(logits.softmax(1) @ torch.arange(121.0), logits, torch.randn(5))
    ages, genders = torch.tensor([1.0, 20.0, 30.0, NAN, 90.0]), torch.tensor([0, 1, -1, 1, 0])
    recipe = Recipe(age_distribution_weight=0.5, age_error_weight=0.25, gender_weight=2.0)
    total, terms = total_loss(outputs, ages, genders, recipe)
    expected = 0.5 * terms["age_distribution"] + 0.25 * terms["age_error"] + 2.0 * terms["gender"]
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)
    _, scalar_terms = total_loss(outputs._replace(age_logits_BA=None), ages, genders, recipe)
    assert set(scalar_terms) == {"age_error", "gender"}


def test_a_teacher_moves_the_target_by_its_weight():
    ages, genders = torch.tensor([20.0, 60.0]), torch.tensor([0, 1])
    soft_targets = torch.zeros(2, 122)
    soft_targets[0, 40], soft_targets[1, 60] = 1.0, 1.0
    soft_targets[:, 121] = torch.tensor([0.4, 0.9])
    logits = torch.randn(2, 121, generator=torch.Generator().manual_seed(0))
    outputs = Outputs(torch.tensor([30.0, 60.0]), logits, torch.tensor([0.3, -0.2]))
    _, alone = total_loss(outputs, ages, genders, Recipe(teacher_weight=0.0), soft_targets)
    _, labels = total_loss(outputs, ages, genders, Recipe())
    assert all(torch.allclose(alone[name], labels[name]) for name in labels)
    _, half = total_loss(outputs, ages, genders, Recipe(teacher_weight=0.5), soft_targets)
    assert half["age_error"].item() == pytest.approx(0.0, abs=1e-5), "half way from 20 to 40 is 30"
    female = torch.tensor([0.2, 0.95])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.gender_logit_B, female)
    assert half["gender"].item() == pytest.approx(expected.item(), rel=1e-5)
    _, teacher_only = total_loss(outputs, ages, genders, Recipe(teacher_weight=1.0), soft_targets)
    surprise = -logits.log_softmax(dim=1)[[0, 1], [40, 60]].mean()
    assert teacher_only["age_distribution"].item() == pytest.approx(surprise.item(), rel=1e-4)


def test_a_range_costs_what_its_probability_says():
    logits = torch.randn(2, 121, generator=torch.Generator().manual_seed(0))
    ranges = torch.tensor([[20.0, 29.0], [70.0, 120.0]])
    probability = logits.double().softmax(dim=1)
    expected = -(probability[0, 20:30].sum().log() + probability[1, 70:].sum().log()) / 2
    loss = age_distribution_loss(logits, torch.full((2,), NAN), 2.5, age_ranges_B2=ranges)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    whole = age_distribution_loss(logits, torch.full((2,), NAN), 2.5, age_ranges_B2=torch.tensor([[0.0, 120.0]] * 2))
    assert whole.item() == pytest.approx(0.0, abs=1e-6)


def test_the_error_to_a_range_is_to_its_nearest_end():
    ranges = torch.tensor([[20.0, 29.0]] * 4)
    estimates = torch.tensor([15.0, 20.0, 29.9, 34.0])
    loss = age_error_loss(estimates, torch.full((4,), NAN), ranges)
    assert loss.item() == pytest.approx((5 + 0 + 0 + 4) / 4)


def test_exact_ages_and_ranges_and_none_in_one_batch():
    logits = torch.randn(3, 121, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ages = torch.tensor([40.0, NAN, NAN])
    ranges = torch.tensor([[NAN, NAN], [20.0, 29.0], [NAN, NAN]])
    both = age_distribution_loss(logits, ages, 2.5, age_ranges_B2=ranges)
    exact = age_distribution_loss(logits[:1], ages[:1], 2.5)
    ranged = age_distribution_loss(logits[1:2], ages[1:2], 2.5, age_ranges_B2=ranges[1:2])
    assert both.item() == pytest.approx((exact + ranged).item() / 2, rel=1e-6)
    both.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    assert (logits.grad[2] == 0).all() and (logits.grad[1, 20:30] < 0).all() and (logits.grad[1, 30:] > 0).all()


def test_no_ranges_change_nothing():
    logits, ages = torch.randn(2, 121), torch.tensor([40.0, NAN])
    none = torch.full((2, 2), NAN)
    assert age_distribution_loss(logits, ages, 2.5, age_ranges_B2=none) == age_distribution_loss(logits, ages, 2.5)
    assert age_error_loss(ages.nan_to_num(0) + 1, ages, none) == age_error_loss(ages.nan_to_num(0) + 1, ages)


def test_a_teacher_has_its_part_in_a_range():
    outputs = Outputs(torch.tensor([50.0]), torch.zeros(1, 121), torch.tensor([0.0]))
    soft = torch.cat([age_targets(torch.tensor([25.0]), 2.5, 121), torch.tensor([[1.0]])], dim=1)
    ranges, none = torch.tensor([[20.0, 29.0]]), torch.tensor([NAN])
    _, terms = total_loss(outputs, none, torch.tensor([1]), Recipe(teacher_weight=0.5), soft, ranges)
    assert terms["age_error"].item() == pytest.approx((20 + 25) / 2, abs=1e-3)
    taught = math.log(121) - 0.5 * math.log(2 * math.pi * math.e * 2.5**2)
    assert terms["age_distribution"].item() == pytest.approx((math.log(121 / 10) + taught) / 2, abs=1e-3)
