"""The optimizer: Muon for the filters of convolutions and the layers between, AdamW for everything else."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed
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

    Several ranks that have the same gradients deal the layers out: each works out the updates of its own and sends them to
    the others. The updates are those of one rank, bit for bit.

    Args:
        groups: of parameters, with ``orthogonal`` and ``weight_decay``; orthogonal ones have two dimensions or more, and
            all dimensions but the first count as inputs.
        learning_rate: of both.
        rank: of this process in torch's default group, where there are several.
        ranks: processes that take the same step together.

    Source: Jordan et al. (2024), Muon; scale of the update after Liu et al. (2025), Muon is scalable for LLM training.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], learning_rate: float, rank: int = 0, ranks: int = 1) -> None:
        super().__init__(groups, lr=learning_rate, fused=True)
        self.rank, self.ranks = rank, ranks

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; the gradients of orthogonal groups are used up."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        moved = [
            (parameter, group)
            for group in self.param_groups
            if group["orthogonal"]
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        updates = self._updates([self._ahead(parameter) for parameter, _ in moved])
        for (parameter, group), update in zip(moved, updates, strict=True):
            length = group["lr"] * _ADAMW_UPDATE_RMS * max(parameter[0].numel(), len(parameter)) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(update.view_as(parameter), alpha=length)
            parameter.grad = None  # AdamW passes over it
        super().step()
        return loss

    def _ahead(self, parameter: Tensor) -> Tensor:
        """Nesterov's momentum as a matrix, after this step's gradient."""
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())  # AdamW looks for it in each state that it takes up again
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(momentum, MOMENTUM).flatten(1)

    def _updates(self, matrices: list[Tensor]) -> list[Tensor]:
        if self.ranks == 1 or not matrices:
            return [orthogonalized(matrix) for matrix in matrices]
        owners = deal([(len(matrix), matrix.shape[1]) for matrix in matrices], self.ranks)
        updates, sent = [], []
        for matrix, owner in zip(matrices, owners, strict=True):
            update = orthogonalized(matrix).contiguous() if owner == self.rank else matrix.new_empty(matrix.shape)
            updates.append(update)
            sent.append(torch.distributed.broadcast(update, src=owner, async_op=True))
        for message in sent:
            if message is not None:  # as it is for a process that is no part of the group
                message.wait()
        return updates


def deal(shapes: Sequence[tuple[int, int]], ranks: int) -> list[int]:
    """Which rank works out which matrix, so that all have about as much to do.

    Args:
        shapes: of the matrices, M x N.
        ranks: at least 1.
    """
    done = [0.0] * ranks
    owners = [0] * len(shapes)
    costs = [min(shape) ** 2 * (2 * max(shape) + 3 * ITERATIONS * min(shape)) for shape in shapes]
    for place in sorted(range(len(shapes)), key=lambda place: -costs[place]):
        owners[place] = done.index(min(done))
        done[owners[place]] += costs[place]
    return owners


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


def make_optimizer(network: nn.Module, recipe: Recipe, rank: int = 0, ranks: int = 1) -> torch.optim.Optimizer:
    """The optimizer that the recipe names, for all parameters that learn; ``rank`` and ``ranks`` as ``Muon`` takes them.

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
        rank,
        ranks,
    )
