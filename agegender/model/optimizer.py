"""The optimizer: Muon for the filters of convolutions and the layers between, AdamW for everything else."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from agegender.recipe import Recipe

MOMENTUM = 0.95
ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that moves all singular values near 1 in five rounds (Jordan et al., 2024)."""

_ADAMW_UPDATE_RMS = 0.2
"""Root mean square of an element of AdamW's updates, as measured by Liu et al. (2025): one learning rate serves both."""


class Muon(torch.optim.AdamW):
    """AdamW, but for the groups that say ``orthogonal``: their update is the momentum with all singular values near 1.

    A step of AdamW follows the few directions in which gradients are large; Muon's is as long in every direction of a
    layer, which is what makes short trainings learn more per step.

    Args:
        groups: of parameters, with ``orthogonal`` and ``weight_decay``; orthogonal ones have two dimensions or more, and
            all dimensions but the first count as inputs.
        learning_rate: of both.

    Source: Jordan et al. (2024), Muon; scale of the update after Liu et al. (2025), Muon is scalable for LLM training.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
        super().__init__(groups, lr=learning_rate, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; the gradients of orthogonal groups are used up."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            if group["orthogonal"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, parameter.grad, group)
                        parameter.grad = None  # AdamW passes over it
        super().step()
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it in each state that it takes up again
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov's
        update = orthogonalized(ahead.flatten(1)).view_as(ahead)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.sub_(update, alpha=group["lr"] * _ADAMW_UPDATE_RMS * max(ahead[0].numel(), len(ahead)) ** 0.5)


def orthogonalized(matrix_MN: Tensor) -> Tensor:
    """The nearest matrix with singular values of 1, roughly: they end between 0.7 and 1.2.

    Works on the smaller Gram matrix: filters have nine times as many inputs as outputs, so that is less than half of the work.

    Args:
        matrix_MN: float32[M, N].
    """
    is_tall = len(matrix_MN) > matrix_MN.shape[1]
    wide: Tensor = matrix_MN.T if is_tall else matrix_MN
    wide = wide / wide.norm().clamp(min=1e-12)
    a, b, c = _QUINTIC
    gram = wide @ wide.T
    identity = torch.eye(len(gram), device=gram.device, dtype=gram.dtype)
    product = identity
    for _ in range(ITERATIONS):
        polynomial = torch.addmm(a * identity + b * gram, gram, gram, alpha=c)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    wide = product @ wide
    return wide.T if is_tall else wide


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer that the recipe names, for all parameters that learn.

    Norms and biases do not decay, for they have no scale to keep small; heads and depthwise filters are AdamW's in Muon too,
    for their rows do not work together as those of a layer within.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    within = {
        name
        for name, parameter in named
        if recipe.optimizer == "muon" and parameter.ndim >= 2 and parameter.shape[1] > 1 and "head" not in name
    }
    groups = [
        (True, recipe.weight_decay, [p for name, p in named if name in within]),
        (False, recipe.weight_decay, [p for name, p in named if name not in within and p.ndim >= 2]),
        (False, 0.0, [p for name, p in named if p.ndim < 2]),
    ]
    return Muon(
        [
            {"params": parameters, "orthogonal": orthogonal, "weight_decay": decay}
            for orthogonal, decay, parameters in groups
            if parameters
        ],
        recipe.learning_rate,
    )
