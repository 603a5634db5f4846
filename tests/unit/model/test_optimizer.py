from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import nn
from torch.multiprocessing.spawn import spawn

from agegender.artifact import NetworkConfig
from agegender.model.checkpoint import optimizer_state, restore_optimizer
from agegender.model.network import FaceNetwork, build_network
from agegender.model.optimizer import assign_to_ranks, make_optimizer, orthogonalized
from agegender.recipe import Recipe


def _network() -> FaceNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(backbone="compact", image_size_px=32, age_head="distribution"))


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_an_orthogonalized_matrix_has_singular_values_near_one_and_the_same_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)) @ torch.diag(
        torch.logspace(0, -1, shape[1])
    )
    made = orthogonalized(matrix)
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.6 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = left @ right
    assert (made * exact).sum() / (made.norm() * exact.norm()) > 0.97


def test_layers_within_move_as_far_in_every_direction_and_the_rest_is_adamw() -> None:
    network, twin = _network(), _network()
    recipe = Recipe(learning_rate=1e-2, weight_decay=0.0)
    _step(network, make_optimizer(network, recipe), seed=3)
    _step(twin, make_optimizer(twin, recipe.model_copy(update={"optimizer": "adamw"})), seed=3)
    before = dict(_network().named_parameters())
    for (name, moved), adamw in zip(network.named_parameters(), twin.parameters(), strict=True):
        if name.startswith("backbone") and moved.ndim == 4 and moved.shape[1] > 1:
            values = torch.linalg.svdvals((moved - before[name]).flatten(1))
            assert values.max() < 2 * values.min(), name
            rms = (moved - before[name]).square().mean().sqrt()
            assert 0.1e-2 < rms < 0.3e-2, name
        else:
            assert torch.equal(moved, adamw), name


def test_norms_and_biases_do_not_decay() -> None:
    network = _network()
    optimizer = make_optimizer(network, Recipe(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        assert decay[id(parameter)] == (0.0 if "norm" in name or name.endswith("bias") or parameter.ndim < 2 else 0.1)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_restored_optimizer_goes_on_as_if_it_had_not_stopped(kind: str) -> None:
    recipe = Recipe.model_validate({"optimizer": kind})
    network = _network()
    optimizer = make_optimizer(network, recipe)
    _step(network, optimizer, seed=1)
    again = _network()
    again.load_state_dict(network.state_dict())
    restored = make_optimizer(again, recipe)
    restore_optimizer(restored, again, optimizer_state(optimizer, network))
    for each, its in ((network, optimizer), (again, restored)):
        _step(each, its, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def _two_steps(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        meeting = f"file://{folder}/meeting"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    network = _network()
    optimizer = make_optimizer(network, Recipe(), rank, world_size)
    for seed in (1, 2):
        _step(network, optimizer, seed)
    torch.save(
        (network.state_dict(), optimizer_state(optimizer, network).tensors), folder / f"{rank}-of-{world_size}.pt"
    )
    if world_size > 1:
        torch.distributed.destroy_process_group()


def test_ranks_that_deal_the_layers_out_step_as_one_does_alone(tmp_path: Path) -> None:
    spawn(_two_steps, (3, tmp_path), nprocs=3)
    spawn(_two_steps, (1, tmp_path), nprocs=1)
    alone = torch.load(tmp_path / "0-of-1.pt")
    for rank in range(3):
        for mine, its in zip(alone, torch.load(tmp_path / f"{rank}-of-3.pt"), strict=True):
            assert mine.keys() == its.keys()
            assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_layers_are_dealt_out_by_their_work_and_more_ranks_than_layers_leave_some_idle() -> None:
    shapes = [(64, 64), (64, 64), (128, 64), (256, 256)]
    assert assign_to_ranks(shapes, 2) == [1, 1, 1, 0]
    assert sorted(assign_to_ranks(shapes, 9)) == [0, 1, 2, 3]
    assert assign_to_ranks([], 2) == []
