import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from agegender.artifact import Calibration, NetworkConfig
from agegender.errors import InputError
from agegender.model.checkpoint import (
    OptimizerState,
    TrainingState,
    load_network,
    load_training_state,
    optimizer_state,
    restore_optimizer,
    round_weights,
    save_model,
    save_training_state,
)
from agegender.model.losses import total_loss
from agegender.model.network import FaceNetwork, build_network
from agegender.recipe import Recipe
from agegender.scoring.load import open_model, training_images, weight_training_images

NO_IMAGES = np.zeros(0, np.uint64)
CONFIG = NetworkConfig(backbone="compact", age_head="distribution", image_size_px=32)


def make(seed: int) -> tuple[FaceNetwork, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    network = build_network(CONFIG)
    decayed = [parameter for parameter in network.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in network.parameters() if parameter.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return network, torch.optim.AdamW(groups, lr=1e-3)


def train(network: FaceNetwork, optimizer: torch.optim.Optimizer, generator: torch.Generator, steps: int) -> None:
    network.train()
    for _ in range(steps):
        images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
        loss, _ = total_loss(network(images), torch.tensor([1.0, 20, 50, 90]), torch.tensor([0, 1, 1, 0]), Recipe())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def state_of(network, optimizer, generator, **changes) -> TrainingState:
    state = TrainingState(
        epoch=2,
        step=17,
        network=network.state_dict(),
        ema={name: value.clone() for name, value in network.state_dict().items()},
        optimizer=optimizer_state(optimizer, network),
        config={"epochs": 15, "augment": {"zoom_min": 0.85}},
        split_hash="ab" * 32,
        schedule={"last_epoch": 17, "_last_lr": [1e-3, 1e-3]},
        random={"augment": generator.get_state(), "torch": torch.get_rng_state()},
        history=[{"epoch": 0, "age_mae_years": 9.5}, {"epoch": 1, "age_mae_years": 8.25}],
        sums={"loss": 12.5, "images": 128.0},
    )
    return dataclasses.replace(state, **changes)


def test_a_resumed_run_is_bit_identical_to_one_that_went_on(tmp_path):
    network, optimizer = make(0)
    generator = torch.Generator().manual_seed(3)
    train(network, optimizer, generator, 3)
    save_training_state(tmp_path, state_of(network, optimizer, generator))
    train(network, optimizer, generator, 3)

    state = load_training_state(tmp_path, "ab" * 32)
    resumed, fresh = make(99)
    resumed.load_state_dict(state.network)
    restore_optimizer(fresh, resumed, state.optimizer)
    again = torch.Generator()
    again.set_state(state.random["augment"])
    torch.set_rng_state(state.random["torch"])
    for parameter, slots in fresh.state.items():
        assert slots["exp_avg"].stride() == parameter.stride()
    train(resumed, fresh, again, 3)
    for (name, one), other in zip(network.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_everything_else_comes_back_as_it_was(tmp_path):
    network, optimizer = make(0)
    generator = torch.Generator().manual_seed(3)
    train(network, optimizer, generator, 1)
    written = state_of(network, optimizer, generator)
    save_training_state(tmp_path, written)
    read = load_training_state(tmp_path)
    for name in ("epoch", "step", "config", "split_hash", "schedule", "history", "sums"):
        assert getattr(read, name) == getattr(written, name), name
    for name in ("network", "ema", "random"):
        one, other = getattr(written, name), getattr(read, name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "state.safetensors"]


def test_an_untrained_optimizer_and_no_average_round_trip(tmp_path):
    network, optimizer = make(0)
    save_training_state(tmp_path, state_of(network, optimizer, torch.Generator(), ema={}))
    state = load_training_state(tmp_path)
    assert state.ema == {} and state.optimizer.tensors == {}
    restore_optimizer(optimizer, network, state.optimizer)


def test_an_optimizer_over_other_parameters_is_refused(tmp_path):
    network, optimizer = make(0)
    state = optimizer_state(optimizer, network)
    other = OptimizerState(state.tensors, state.groups[:1])
    with pytest.raises(InputError, match="other parameters"):
        restore_optimizer(optimizer, network, other)


def test_foreign_versions_and_other_splits_are_refused(tmp_path):
    network, optimizer = make(0)
    save_training_state(tmp_path, state_of(network, optimizer, torch.Generator()))
    with pytest.raises(InputError, match=r"is of split abababababab, this run's is cdcdcdcdcdcd"):
        load_training_state(tmp_path, "cd" * 32)
    path = tmp_path / "state.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "format_version": 99}))
    with pytest.raises(InputError, match="format version 99, this release reads 1"):
        load_training_state(tmp_path)


def test_missing_and_damaged_states_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"state\.json"):
        load_training_state(tmp_path)
    network, optimizer = make(0)
    save_training_state(tmp_path, state_of(network, optimizer, torch.Generator()))
    tensors, content = tmp_path / "state.safetensors", tmp_path / "state.json"
    complete = content.read_bytes()
    content.write_bytes(complete[: len(complete) // 2])
    with pytest.raises(InputError, match=r"state\.json"):
        load_training_state(tmp_path)
    content.write_bytes(b"[]")
    with pytest.raises(InputError, match=r"state\.json"):
        load_training_state(tmp_path)
    content.write_bytes(complete)
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        load_training_state(tmp_path)


def test_a_model_folder_opens_and_holds_what_was_saved(tmp_path):
    network, optimizer = make(0)
    train(network, optimizer, torch.Generator().manual_seed(0), 2)
    round_weights(network)
    calibration = Calibration(gender_temperature=1.5)
    learnt, calibrated = np.array([9, 2**63 + 5, 3, 9], np.uint64), np.array([4, 9], np.uint64)
    folder = tmp_path / "model"
    metrics = {"age_mae_years": 5.5}
    written = save_model(folder, network, calibration, learnt, calibrated, "ab", {"epochs": 2}, metrics)
    assert open_model(folder) == written
    assert training_images(folder).tolist() == [3, 4, 9, 2**63 + 5]
    assert weight_training_images(folder).tolist() == [3, 9, 2**63 + 5]
    assert written.model_id == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()[:12]
    loaded, info = load_network(folder)
    assert info == written and not loaded.training
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(loaded(images).age_years_B, network.eval()(images).age_years_B)
    assert sorted(path.name for path in folder.iterdir()) == sorted([*written.files, "model.json"])


def test_saving_again_replaces_the_model(tmp_path):
    for seed in (0, 1):
        network, _ = make(seed)
        info = save_model(tmp_path, network, Calibration(), NO_IMAGES, NO_IMAGES, "", {}, {})
    assert open_model(tmp_path) == info
    assert training_images(tmp_path).tolist() == []


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"model\.json: not a trained model"):
        load_network(tmp_path)
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(InputError, match=r"model\.json: not a trained model"):
        load_network(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    network, _ = make(0)
    info = save_model(tmp_path, network, Calibration(), NO_IMAGES, NO_IMAGES, "", {}, {})
    other = info.model_copy(update={"network": CONFIG.model_copy(update={"backbone": "notebook"})})
    (tmp_path / "model.json").write_text(other.model_dump_json())
    with pytest.raises(InputError, match=r"weights\.safetensors: not the weights of this release's notebook network"):
        load_network(tmp_path)
