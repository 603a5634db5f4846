"""Addresses of models: the names of those that come with the package, and folders."""

from pathlib import Path

import pytest

from agegender import released
from agegender.api.keywords import build_config
from agegender.config import RELEASED_MODELS, EvaluateConfig, PredictConfig
from agegender.errors import InputError
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.pipelines.train.run import run_train
from agegender.scoring.load import open_model
from agegender.training_config import TrainConfig


@pytest.fixture
def only_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that lacks the other models, whatever this one has."""
    monkeypatch.setattr(released, "installed", lambda: ("fast",))


@pytest.mark.parametrize("name", released.installed())
def test_a_name_is_an_address_that_is_valid_on_every_node(name: str) -> None:
    assert model_address(name) == name
    assert localize_model(name).folder == released.folder(name)
    for config in (
        PredictConfig(input=["s3://a"], output="s3://b", model=name),
        EvaluateConfig(input=["s3://a"], output="s3://b", model=name),
    ):
        assert "model" not in config.opened_by_workers()


def test_a_name_whose_model_is_not_here_is_told_with_those_that_are(only_fast: None) -> None:
    for name in RELEASED_MODELS[1:]:
        for look in (model_address, localize_model):
            with pytest.raises(InputError) as caught:
                look(name)
            words = str(caught.value)
            assert words.startswith(f"{name}: a model of agegender that is not in this installation, which has fast.")
            assert f"make release MODEL={name}" in words and f"agegender/released/{name}/model" in words


@pytest.mark.parametrize("option", [{"init": "open"}, {"teacher": ["fast", "accurate"]}])
def test_training_that_lacks_a_model_says_so_before_it_looks_for_images(
    only_fast: None, tmp_path: Path, option: dict[str, str | list[str]]
) -> None:
    config = TrainConfig.model_validate(
        {"input": [str(tmp_path / "nowhere")], "output": str(tmp_path / "out"), **option}
    )
    with pytest.raises(InputError, match="not in this installation"):
        run_train(config)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_same_name_is_a_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fast").symlink_to(tiny_model)
    assert model_address("./fast") == str(tmp_path / "fast")
    assert localize_model(model_address("./fast")).info.model_id == open_model(tiny_model).model_id
    assert localize_model("fast").folder == released.FOLDER


def test_a_path_object_is_never_a_name() -> None:
    config = build_config(PredictConfig, "predict", {"input": ["x"], "output": "y", "model": Path("./fast")})
    assert config.model == "./fast"
    trained = build_config(
        TrainConfig,
        "train",
        {"input": ["x"], "output": "y", "init": Path("open"), "teacher": [Path("accurate"), "fast"]},
    )
    assert (trained.init, trained.teacher) == ("./open", ["./accurate", "fast"])
