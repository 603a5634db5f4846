"""The training loss. Shapes: B rows, A = 121 age bins.

A row without an age label has NaN, one without a gender label -1; each loss is a mean over its labelled rows, weighted if
they have weights, and 0 with a live graph where there is none, so that every rank runs the same backward pass.
"""

import torch
from torch import Tensor
from torch.nn import functional

from agegender.model.network import Outputs
from agegender.recipe import Recipe


def age_targets(age_years_B: Tensor, sigma_years: float, bins: int) -> Tensor:
    """Gaussian over the age bins, normalised to sum to 1 also where it is truncated at an end.

    Args:
        age_years_B: float32[B], years, no NaN.
        sigma_years: width, > 0.
        bins: A.

    Returns:
        float32[B, A].
    """
    years_A = torch.arange(bins, dtype=torch.float32, device=age_years_B.device)
    distance_BA = (years_A - age_years_B.unsqueeze(1)) / sigma_years
    return torch.softmax(-0.5 * distance_BA**2, dim=1)


def age_distribution_loss(
    logits_BA: Tensor,
    age_years_B: Tensor,
    sigma_years: float,
    teacher_age_BA: Tensor | None = None,
    teacher_weight: float = 0.0,
    age_ranges_B2: Tensor | None = None,
    weights_B: Tensor | None = None,
) -> Tensor:
    """KL divergence from a Gaussian over age bins, mixed with the teachers' probabilities if given; mean over labelled rows.

    Of a row whose age is a range, minus the log of the probability that the estimate gives to the range: the likelihood of
    what is known, which does not prefer one age of the range to another.

    Args:
        logits_BA: float32[B, A], one bin per year from 0.
        age_years_B: float32[B]; NaN where unlabelled or labelled with a range.
        sigma_years: width of the target, > 0.
        teacher_age_BA: float32[B, A], the teachers' probabilities; None: the Gaussian only.
        teacher_weight: weight of the teachers in the target, 0-1.
        age_ranges_B2: float32[B, 2], first and last year of the range; NaN where there is none. None: no ranges.
        weights_B: float32[B], >= 0; None: all the same.

    Returns:
        float32 scalar in nats; 0 with a live graph if no row is labelled.

    Source: label distribution learning (Gao et al., 2017), eq. 5.
    """
    labelled_B = ~age_years_B.isnan()
    target_BA = age_targets(age_years_B.nan_to_num(0.0), sigma_years, logits_BA.shape[1])
    if teacher_age_BA is not None:
        target_BA = torch.lerp(target_BA, teacher_age_BA, teacher_weight)
    log_estimate_BA = functional.log_softmax(logits_BA, dim=1)
    divergence_B = (torch.xlogy(target_BA, target_BA) - target_BA * log_estimate_BA).sum(dim=1)
    if age_ranges_B2 is None:
        return mean_of_labelled(divergence_B, labelled_B, weights_B)
    ranged_B = ~age_ranges_B2[:, 0].isnan()
    missed_B = _range_surprise(log_estimate_BA, age_ranges_B2)
    if teacher_age_BA is not None:
        taught_B = (torch.xlogy(teacher_age_BA, teacher_age_BA) - teacher_age_BA * log_estimate_BA).sum(dim=1)
        missed_B = torch.lerp(missed_B, taught_B, teacher_weight)
    return mean_of_labelled(torch.where(ranged_B, missed_B, divergence_B), labelled_B | ranged_B, weights_B)


def _range_surprise(log_estimate_BA: Tensor, age_ranges_B2: Tensor) -> Tensor:
    """Minus the log of the probability of each range, float32[B] in nats; finite also where there is no range."""
    years_A = torch.arange(log_estimate_BA.shape[1], dtype=torch.float32, device=log_estimate_BA.device)
    ends_B2 = age_ranges_B2.nan_to_num(0.0)
    inside_BA = (years_A >= ends_B2[:, :1]) & (years_A <= ends_B2[:, 1:])
    return -log_estimate_BA.masked_fill(~inside_BA, -torch.inf).logsumexp(dim=1)


def age_error_loss(
    estimate_years_B: Tensor,
    age_years_B: Tensor,
    age_ranges_B2: Tensor | None = None,
    teacher_years_B: Tensor | None = None,
    teacher_weight: float = 0.0,
    weights_B: Tensor | None = None,
) -> Tensor:
    """Mean absolute error in years over labelled rows, to the nearest end of a range and 0 inside it.

    Args:
        estimate_years_B: float32[B].
        age_years_B: float32[B]; NaN where unlabelled or labelled with a range.
        age_ranges_B2: float32[B, 2], first and last year of the range; NaN where there is none. None: no ranges.
        teacher_years_B: float32[B], the teachers' estimate, of which only rows with a range take note; None: no teachers.
        teacher_weight: weight of the teachers in the error to a range, 0-1.
        weights_B: float32[B], >= 0; None: all the same.

    Returns:
        float32 scalar in years; 0 with a live graph if no row is labelled.
    """
    error_B = (estimate_years_B - age_years_B.nan_to_num(0.0)).abs()
    labelled_B = ~age_years_B.isnan()
    if age_ranges_B2 is None:
        return mean_of_labelled(error_B, labelled_B, weights_B)
    ranged_B = ~age_ranges_B2[:, 0].isnan()
    low_B, high_B = age_ranges_B2.nan_to_num(0.0).unbind(dim=1)
    end_B = high_B + 1  # a range lasts to the birthday after its last year
    outside_B = (low_B - estimate_years_B).clamp(min=0.0) + (estimate_years_B - end_B).clamp(min=0.0)
    if teacher_years_B is not None:
        outside_B = torch.lerp(outside_B, (estimate_years_B - teacher_years_B).abs(), teacher_weight)
    return mean_of_labelled(torch.where(ranged_B, outside_B, error_B), labelled_B | ranged_B, weights_B)


def gender_loss(
    logit_B: Tensor,
    gender_B: Tensor,
    teacher_female_B: Tensor | None = None,
    teacher_weight: float = 0.0,
    weights_B: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of being female, mean over labelled rows.

    Args:
        logit_B: float32[B], positive is female.
        gender_B: int[B], 0 male, 1 female, -1 unlabelled.
        teacher_female_B: float32[B], the teachers' probability; None: the label only.
        teacher_weight: weight of the teachers in the target, 0-1.
        weights_B: float32[B], >= 0; None: all the same.

    Returns:
        float32 scalar in nats; 0 with a live graph if no row is labelled.
    """
    target_B = (gender_B == 1).to(logit_B.dtype)
    if teacher_female_B is not None:
        target_B = torch.lerp(target_B, teacher_female_B, teacher_weight)
    entropy_B = functional.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")
    return mean_of_labelled(entropy_B, gender_B >= 0, weights_B)


def mean_of_labelled(values_B: Tensor, labelled_B: Tensor, weights_B: Tensor | None = None) -> Tensor:
    """Mean over labelled rows; 0 with a live graph if no row is labelled, or none that weighs anything.

    Args:
        values_B: float32[B], finite also where unlabelled (0 x NaN would poison the gradient).
        labelled_B: bool[B].
        weights_B: float32[B], >= 0; None: all the same.
    """
    mask_B = labelled_B.to(values_B.dtype)
    if weights_B is not None:
        mask_B = mask_B * weights_B
    total = mask_B.sum()
    return (values_B * mask_B).sum() / torch.where(total > 0, total, 1.0)


def total_loss(
    outputs: Outputs,
    age_years_B: Tensor,
    gender_B: Tensor,
    recipe: Recipe,
    soft_targets_BX: Tensor | None = None,
    age_ranges_B2: Tensor | None = None,
    weights_B: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss and its terms.

    Args:
        outputs: of the network.
        age_years_B: float32[B]; NaN where unlabelled.
        gender_B: int[B], 0 male, 1 female, -1 unlabelled.
        recipe: weights of the terms and width of the age target.
        soft_targets_BX: float32[B, A + 1], the teachers' probabilities of the ages and of female; None: labels only.
        age_ranges_B2: float32[B, 2], first and last year of the range; NaN where there is none. None: no ranges.
        weights_B: float32[B], >= 0, of each row in all terms; None: all the same.

    Returns:
        The scalar loss, and the unweighted terms, detached: ``age_distribution`` (nats, not for a scalar head),
        ``age_error`` (years), ``gender`` (nats).
    """
    weight = recipe.teacher_weight
    teacher_age_BA = teacher_female_B = teacher_years_B = None
    target_years_B = age_years_B
    if soft_targets_BX is not None:
        teacher_age_BA, teacher_female_B = soft_targets_BX[:, :-1], soft_targets_BX[:, -1]
        years_A = torch.arange(teacher_age_BA.shape[1], dtype=torch.float32, device=teacher_age_BA.device)
        teacher_years_B = teacher_age_BA @ years_A
        target_years_B = torch.lerp(age_years_B, teacher_years_B, weight)
    terms = {
        "age_error": age_error_loss(
            outputs.age_years_B, target_years_B, age_ranges_B2, teacher_years_B, weight, weights_B
        ),
        "gender": gender_loss(outputs.gender_logit_B, gender_B, teacher_female_B, weight, weights_B),
    }
    total = recipe.age_error_weight * terms["age_error"] + recipe.gender_weight * terms["gender"]
    if outputs.age_logits_BA is not None:
        terms["age_distribution"] = age_distribution_loss(
            *(outputs.age_logits_BA, age_years_B, recipe.age_sigma_years, teacher_age_BA, weight),
            *(age_ranges_B2, weights_B),
        )
        total = total + recipe.age_distribution_weight * terms["age_distribution"]
    return total, {name: term.detach() for name, term in terms.items()}
