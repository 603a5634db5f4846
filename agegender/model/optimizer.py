"""The optimizer: Muon for the hidden layers' matrices and filters, AdamW for everything else."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from agegender.recipe import Recipe

MOMENTUM = 0.95
ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz polynomial, which maps all singular values near 1 in five iterations (Jordan et al.,
2024)."""

_ADAMW_UPDATE_RMS = 0.2
"""RMS of AdamW's updates as measured by Liu et al. (2025); scaling Muon's to it lets both share one learning rate."""


class Muon(torch.optim.AdamW):
    """AdamW, except for groups with ``orthogonal``: their update is the orthogonalized momentum.

    AdamW's update is dominated by the few directions with large gradients; Muon's has the same length in every direction of
    a layer, so that short runs learn more per step.

    With several ranks, which have the same gradients, each rank computes the updates of some layers and broadcasts them. The
    result is bitwise that of one rank.

    Args:
        groups: parameter groups with ``orthogonal`` and ``weight_decay``. Orthogonal ones have two or more dimensions; all
            but the first are flattened as inputs.
        learning_rate: of both.
        rank: of this process in torch's default process group.
        world_size: processes in the group.

    Source: Jordan et al. (2024), Muon; scale of the update after Liu et al. (2025), Muon is scalable for LLM training.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], learning_rate: float, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(groups, lr=learning_rate, fused=True)
        self.rank, self.world_size = rank, world_size

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; sets the gradients of orthogonal groups to None."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        orthogonal = [
            (parameter, group)
            for group in self.param_groups
            if group["orthogonal"]
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        updates = self._updates([self._nesterov_momentum(parameter) for parameter, _ in orthogonal])
        for (parameter, group), update in zip(orthogonal, updates, strict=True):
            scale = group["lr"] * _ADAMW_UPDATE_RMS * max(parameter[0].numel(), len(parameter)) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(update.view_as(parameter), alpha=scale)
            parameter.grad = None  # so that AdamW skips it
        super().step()
        return loss

    def _nesterov_momentum(self, parameter: Tensor) -> Tensor:
        """Update the momentum and return Nesterov's look-ahead as a matrix."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW expects it in each loaded state
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM).flatten(1)

    def _updates(self, matrices: list[Tensor]) -> list[Tensor]:
        if self.world_size == 1 or not matrices:
            return [orthogonalized(matrix) for matrix in matrices]
        owners = assign_to_ranks([(len(matrix), matrix.shape[1]) for matrix in matrices], self.world_size)
        updates, works = [], []
        for matrix, owner in zip(matrices, owners, strict=True):
            update = orthogonalized(matrix).contiguous() if owner == self.rank else matrix.new_empty(matrix.shape)
            updates.append(update)
            works.append(torch.distributed.broadcast(update, src=owner, async_op=True))
        for work in works:
            if work is not None:  # None in a process outside the group
                work.wait()
        return updates


def assign_to_ranks(shapes: Sequence[tuple[int, int]], world_size: int) -> list[int]:
    """Which rank computes the update of which matrix, with balanced cost.

    Args:
        shapes: (M, N) of each matrix.
        world_size: at least 1.
    """
    load = [0.0] * world_size
    owners = [0] * len(shapes)
    costs = [min(shape) ** 2 * (2 * max(shape) + 3 * ITERATIONS * min(shape)) for shape in shapes]
    for place in sorted(range(len(shapes)), key=lambda place: -costs[place]):
        owners[place] = load.index(min(load))
        load[owners[place]] += costs[place]
    return owners


def orthogonalized(matrix_MN: Tensor) -> Tensor:
    """Approximately the nearest matrix with all singular values 1 (they end between 0.7 and 1.2).

    Iterates on the smaller Gram matrix, which takes less than half of the work: filters have nine times as many inputs as
    outputs.

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


def make_optimizer(network: nn.Module, recipe: Recipe, rank: int = 0, world_size: int = 1) -> torch.optim.Optimizer:
    """The recipe's optimizer for all trainable parameters; ``rank`` and ``world_size`` as in ``Muon``.

    Norms and biases have no weight decay. Heads and depthwise filters use AdamW also with Muon: they are not hidden layers'
    matrices, which Muon is for.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    hidden = {
        name
        for name, parameter in named
        if recipe.optimizer == "muon" and parameter.ndim >= 2 and parameter.shape[1] > 1 and "head" not in name
    }
    groups = [
        (True, recipe.weight_decay, [p for name, p in named if name in hidden]),
        (False, recipe.weight_decay, [p for name, p in named if name not in hidden and p.ndim >= 2]),
        (False, 0.0, [p for name, p in named if p.ndim < 2]),
    ]
    return Muon(
        [
            {"params": parameters, "orthogonal": orthogonal, "weight_decay": decay}
            for orthogonal, decay, parameters in groups
            if parameters
        ],
        recipe.learning_rate,
        rank,
        world_size,
    )
