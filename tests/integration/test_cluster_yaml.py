"""cluster.yaml as Ray's own launcher reads it; what that overlooks is in tests/unit/deploy/test_launcher.py."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.aws import config as aws
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return parsed


def test_the_launcher_file_is_valid(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert not any("nightly" in command or "latest" in command for command in prepared["worker_setup_commands"])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"max_worker": 4}, ValidationError),
        ({"head_node_type": "master"}, ValueError),
        ({"max_workers": 1}, ValueError),
        ({"docker": {"image": "rayproject/ray"}}, AssertionError),
    ],
)
def test_what_the_launcher_would_refuse_is_found(
    config: dict[str, Any], change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        validate_config(prepare_config(config | change))


def test_the_launcher_makes_no_security_group_of_its_own(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own admits SSH from everywhere; it makes one for each type that names none."""
    made: list[str] = []

    def upsert(_config: dict[str, Any], types: list[str]) -> dict[str, Any]:
        made.extend(types)
        raise ConnectionError

    monkeypatch.setattr(aws, "_upsert_security_groups", upsert)
    assert aws._configure_security_group(copy.deepcopy(config)) == config
    del config["available_node_types"]["gpu"]["node_config"]["SecurityGroupIds"]
    with pytest.raises(ConnectionError):
        aws._configure_security_group(config)
    assert made == ["gpu"]
