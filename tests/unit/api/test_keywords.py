from pathlib import Path
from typing import Any

import pytest

from agegender.api.keywords import build_config
from agegender.config import PredictConfig
from agegender.errors import ConfigError
from agegender.training_config import TrainConfig

GIVEN = {"input": ["x"], "output": "y"}


def test_values_and_defaults_are_those_of_the_command_line() -> None:
    config = build_config(PredictConfig, "predict", {**GIVEN, "faces": "none", "unit_images": 8})
    assert config == PredictConfig(input=["x"], output="y", faces="none", unit_images=8)


def test_an_unknown_option_is_named_with_its_neighbour_and_with_all_that_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(PredictConfig, "predict", {**GIVEN, "max_face": 3})
    words = str(caught.value)
    assert words.startswith("predict() has no option 'max_face'. Did you mean max_faces? Its options: ")
    for name in PredictConfig.model_fields:
        assert name in words


def test_what_a_function_does_not_take_is_not_offered() -> None:
    with pytest.raises(ConfigError, match="has no option 'dry_run'") as caught:
        build_config(PredictConfig, "predict", {**GIVEN, "dry_run": True}, ("dry_run",))
    assert "dry_run," not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"faces": "all"}, r"faces: Input should be 'none', 'detect' or 'boxes' \(given: 'all'\)"),
        ({"num_workers": 0}, r"num_workers: Input should be greater than or equal to 1 \(given: 0\)"),
        ({"faces": "all", "limit": -1}, "faces: .*; limit: "),
    ],
)
def test_a_value_out_of_its_bounds_is_named_with_what_is_allowed(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_config(PredictConfig, "predict", {**GIVEN, **options})


def test_options_that_cannot_work_together_are_said_as_on_the_command_line() -> None:
    with pytest.raises(ConfigError, match="min_workers 3 is above num_workers 2"):
        build_config(TrainConfig, "train", {**GIVEN, "min_workers": 3, "num_workers": 2})


def test_nested_options_are_dicts_and_named_by_their_path() -> None:
    config = build_config(TrainConfig, "train", {**GIVEN, "augment": {"flip_probability": 0.25}})
    assert config.augment.flip_probability == 0.25
    with pytest.raises(ConfigError, match=r"augment\.flip_probability"):
        build_config(TrainConfig, "train", {**GIVEN, "augment": {"flip_probability": 2}})


def test_paths_and_a_list_of_one_may_be_given_as_they_are() -> None:
    config = build_config(TrainConfig, "train", {**GIVEN, "init": Path("a") / "b", "teacher": Path("t")})
    assert (config.init, config.teacher) == ("a/b", ["t"])
