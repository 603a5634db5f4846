"""What training minimises. Shapes: B rows, A = 121 age bins.

A row without an age label has NaN, one without a gender label -1; each loss is a mean over its labelled rows, and 0 with
a live graph where there is none, so that every rank runs the same backward pass.
"""

import torch
from torch import Tensor
from torch.nn import functional

from agegender.model.network import Outputs
from agegender.recipe import Recipe


def age_targets(age_years_B: Tensor, sigma_years: float, bins: int) -> Tensor:
    """Gaussian over the age bins, renormalised to sum to 1 also where an end cuts it.

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
    taught_BA: Tensor | None = None,
    teacher_weight: float = 0.0,
) -> Tensor:
    """KL divergence from a Gaussian over age bins, or from its mixture with what teachers say, mean over labelled rows.

    Args:
        logits_BA: float32[B, A], one bin per year from 0.
        age_years_B: float32[B]; NaN where unlabelled.
        sigma_years: width of the target, > 0.
        taught_BA: float32[B, A], the teachers' probabilities; None: the Gaussian alone.
        teacher_weight: share of the target that is theirs, 0-1.

    Returns:
        float32 scalar in nats; 0 with a live graph if no row is labelled.

    Source: label distribution learning (Gao et al., 2017), eq. 5.
    """
    labelled_B = ~age_years_B.isnan()
    target_BA = age_targets(age_years_B.nan_to_num(0.0), sigma_years, logits_BA.shape[1])
    if taught_BA is not None:
        target_BA = torch.lerp(target_BA, taught_BA, teacher_weight)
    log_estimate_BA = functional.log_softmax(logits_BA, dim=1)
    divergence_B = (torch.xlogy(target_BA, target_BA) - target_BA * log_estimate_BA).sum(dim=1)
    return mean_of_labelled(divergence_B, labelled_B)


def age_error_loss(estimate_years_B: Tensor, age_years_B: Tensor) -> Tensor:
    """Mean absolute error in years over labelled rows.

    Args:
        estimate_years_B: float32[B].
        age_years_B: float32[B]; NaN where unlabelled.

    Returns:
        float32 scalar in years; 0 with a live graph if no row is labelled.
    """
    error_B = (estimate_years_B - age_years_B.nan_to_num(0.0)).abs()
    return mean_of_labelled(error_B, ~age_years_B.isnan())


def gender_loss(
    logit_B: Tensor, gender_B: Tensor, taught_female_B: Tensor | None = None, teacher_weight: float = 0.0
) -> Tensor:
    """Binary cross-entropy of being female, mean over labelled rows.

    Args:
        logit_B: float32[B], positive is female.
        gender_B: int[B], 0 male, 1 female, -1 unlabelled.
        taught_female_B: float32[B], the teachers' probability; None: the label alone.
        teacher_weight: share of the target that is theirs, 0-1.

    Returns:
        float32 scalar in nats; 0 with a live graph if no row is labelled.
    """
    target_B = (gender_B == 1).to(logit_B.dtype)
    if taught_female_B is not None:
        target_B = torch.lerp(target_B, taught_female_B, teacher_weight)
    entropy_B = functional.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")
    return mean_of_labelled(entropy_B, gender_B >= 0)


def mean_of_labelled(values_B: Tensor, labelled_B: Tensor) -> Tensor:
    """Mean of the values whose row is labelled; 0 with a live graph if none is.

    Args:
        values_B: float32[B], finite also where unlabelled (0 x NaN would poison the gradient).
        labelled_B: bool[B].
    """
    kept_B = labelled_B.to(values_B.dtype)
    return (values_B * kept_B).sum() / kept_B.sum().clamp(min=1.0)


def total_loss(
    outputs: Outputs, age_years_B: Tensor, gender_B: Tensor, recipe: Recipe, taught_BX: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum that training minimises, and its terms.

    Args:
        outputs: of the network.
        age_years_B: float32[B]; NaN where unlabelled.
        gender_B: int[B], 0 male, 1 female, -1 unlabelled.
        recipe: the weights of the terms and the width of the age target.
        taught_BX: float32[B, A + 1], the teachers' probabilities of the ages and of female; None: labels alone.

    Returns:
        The scalar, and the terms before weighting, detached: ``age_distribution`` (nats, not for a scalar head),
        ``age_error`` (years), ``gender`` (nats).
    """
    weight = recipe.teacher_weight
    taught_BA = taught_female_B = None
    aim_years_B = age_years_B
    if taught_BX is not None:
        taught_BA, taught_female_B = taught_BX[:, :-1], taught_BX[:, -1]
        years_A = torch.arange(taught_BA.shape[1], dtype=torch.float32, device=taught_BA.device)
        aim_years_B = torch.lerp(age_years_B, taught_BA @ years_A, weight)
    terms = {
        "age_error": age_error_loss(outputs.age_years_B, aim_years_B),
        "gender": gender_loss(outputs.gender_logit_B, gender_B, taught_female_B, weight),
    }
    total = recipe.age_error_weight * terms["age_error"] + recipe.gender_weight * terms["gender"]
    if outputs.age_logits_BA is not None:
        terms["age_distribution"] = age_distribution_loss(
            outputs.age_logits_BA, age_years_B, recipe.age_sigma_years, taught_BA, weight
        )
        total = total + recipe.age_distribution_weight * terms["age_distribution"]
    return total, {name: term.detach() for name, term in terms.items()}
