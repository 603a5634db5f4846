"""The training loop alone: on one device, without Ray, disk or network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agegender.artifact import NetworkConfig
from agegender.data.synthetic import draw_face
from agegender.errors import ConfigError, InputError
from agegender.model.batches import Samples
from agegender.model.checkpoint import TrainingState
from agegender.model.loop import DivergedError, Listener, TrainingLoop, TrainingTask
from agegender.model.network import FaceNetwork
from agegender.training_config import TrainConfig

SIDE_PX = 32
CPU = torch.device("cpu")


class Kept(Listener):
    """Keeps each state; stops the training after some of them."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.states: list[TrainingState] = []
        self.epochs: list[int] = []
        self.stop_after = stop_after

    def checkpoint(self, metrics: dict[str, Any], state: TrainingState | None) -> None:
        assert state is not None
        assert metrics["step"] == state.step
        network, ema = ({name: value.clone() for name, value in part.items()} for part in (state.network, state.ema))
        tensors = {name: value.clone() for name, value in state.optimizer.tensors.items()}
        optimizer = replace(state.optimizer, tensors=tensors)
        self.states.append(replace(state, network=network, ema=ema, optimizer=optimizer, history=list(state.history)))
        if len(self.states) == self.stop_after:
            raise KeyboardInterrupt

    def end_epoch(self, history: list[dict[str, Any]]) -> None:
        self.epochs.append(history[-1]["epoch"])


@pytest.fixture(scope="module")
def samples() -> Samples:
    rng = np.random.default_rng(0)
    ages, genders = rng.integers(2, 90, 42), rng.integers(0, 2, 42)
    pixels = [draw_face(ages[i], genders[i], i, SIDE_PX) for i in range(42)]
    return Samples(np.stack(pixels), np.arange(42), ages.astype(np.float32), genders)


def part(samples: Samples, rows: slice) -> Samples:
    weights = None if samples.weights is None else samples.weights[rows]
    return Samples(samples.pixels, samples.rows[rows], samples.age_years[rows], samples.gender[rows], weights=weights)


def loop(
    samples: Samples,
    listener: Listener,
    state: TrainingState | None = None,
    teachers: Sequence[FaceNetwork] = (),
    **settings: Any,
) -> TrainingLoop:
    given: dict[str, Any] = {"image_size_px": SIDE_PX, "epochs": 2, "batch_size": 8, "checkpoint_interval_steps": 3}
    config = TrainConfig(input=["drawn"], output="nowhere", **given | settings)
    network = NetworkConfig(**{name: getattr(config, name) for name in NetworkConfig.model_fields})
    train, val = part(samples, slice(0, 32)), part(samples, slice(32, 42))
    return TrainingLoop(
        TrainingTask(config, network, "split"),
        train,
        val,
        CPU,
        "float32",
        state=state,
        teachers=teachers,
        listener=listener,
    )


def test_interrupted_within_an_epoch_it_ends_with_the_weights_and_metrics_of_one_that_was_not(samples: Samples) -> None:
    undisturbed = loop(samples, kept := Kept())
    undisturbed.run()
    assert kept.epochs == [1, 2]
    assert [state.step for state in kept.states] == [3, 4, 7, 8]
    interrupted = loop(samples, first := Kept(stop_after=3))
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()
    resumed = loop(samples, Kept(), first.states[-1])
    assert (resumed.epoch, resumed.step, resumed.used_images) == (1, 7, 56)
    resumed.run()
    for ours, theirs in ((resumed.network, undisturbed.network), (resumed.averaged, undisturbed.averaged)):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    timed = {"images_per_s", "data_wait_share", "seconds"}
    for mine, other in zip(resumed.history, undisturbed.history, strict=True):
        assert {k: v for k, v in mine.items() if k not in timed} == {k: v for k, v in other.items() if k not in timed}


def test_a_finished_state_trains_no_step(samples: Samples) -> None:
    loop(samples, kept := Kept()).run()
    again = loop(samples, seen := Kept(), kept.states[-1])
    again.run()
    assert not seen.states
    assert again.history == kept.states[-1].history


def test_a_loss_that_is_not_finite_ends_it_after_the_epoch(samples: Samples) -> None:
    with pytest.raises(DivergedError, match=r"not finite in epoch 1 .*--learning-rate"):
        loop(samples, Kept(), learning_rate=1e30, gradient_clip_norm=0.0).run()


def test_it_refuses_batches_and_states_that_do_not_fit(samples: Samples) -> None:
    with pytest.raises(ConfigError, match="--accumulate 9"):
        loop(samples, Kept(), accumulate=9)
    loop(samples, kept := Kept(), epochs=1).run()
    other = replace(kept.states[-1], schedule=kept.states[-1].schedule | {"images": 31})
    with pytest.raises(InputError, match="trained on 31 images"):
        loop(samples, Kept(), other)


def test_a_student_learns_what_its_teacher_says_and_not_what_the_labels_say(samples: Samples) -> None:
    """The teacher was taught that everybody is of the other gender, which is as plain as black and white here."""
    grey = np.broadcast_to((60 + 120 * samples.gender).astype(np.uint8)[:, None, None, None], samples.pixels.shape)
    samples = replace(samples, pixels=grey)
    mirrored = replace(samples, gender=1 - samples.gender)
    settings: dict[str, Any] = {"epochs": 6, "learning_rate": 5e-3, "ema_decay": 0.8, "views": 1}
    taught_wrong = loop(mirrored, Listener(), **settings)
    taught_wrong.run()
    teacher, before = taught_wrong.averaged, {n: v.clone() for n, v in taught_wrong.averaged.state_dict().items()}
    accuracy = taught_wrong.history[-1]["gender_accuracy"]
    assert accuracy >= 0.8, "on val, whose labels are the other gender, too"
    student = loop(samples, Listener(), teachers=[teacher], teacher_weight=1.0, mixup_alpha=0.5, **settings)
    student.run()
    assert student.history[-1]["gender_accuracy"] <= 0.2
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_an_image_that_weighs_nothing_is_not_learnt_from(samples: Samples) -> None:
    wrong, weights = samples.gender.copy(), np.ones(len(samples), np.float32)
    wrong[:16], weights[:16] = 1 - wrong[:16], 0
    runs = [
        loop(replace(samples, gender=gender, weights=weights), Listener(), views=1)
        for gender in (samples.gender, wrong)
    ]
    for each in runs:
        each.run()
    for name, value in runs[0].network.state_dict().items():
        assert torch.equal(value, runs[1].network.state_dict()[name]), name
    assert runs[0].history[-1]["train_loss"] == runs[1].history[-1]["train_loss"]
