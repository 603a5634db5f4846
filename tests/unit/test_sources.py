"""Options of several sources: one value for all inputs, or one for each."""

from pathlib import Path
from typing import Any

import pytest

from agegender.config import EvaluateConfig
from agegender.errors import ConfigError
from agegender.option_groups import source_names
from agegender.options import LABELS, OUTPUT
from agegender.settings import parse_config
from agegender.training_config import TrainConfig

TWO = ["--input", "a/UTKFace", "--input", "b/faces.parquet", "--output", "o"]


def test_each_input_gets_its_own_options_in_the_order_given() -> None:
    flags = ["--faces", "none", "--faces", "detect", "--source-weight", "1", "--source-weight", "0.5"]
    flags += ["--age-column", "", "--age-column", "years", "--labels=", "--labels=manifest"]
    flags += ["--gender-codes", "", "--gender-codes", "1=male,2=female", "--unit-images", "7"]
    first, second = parse_config(TrainConfig, [*TWO, *flags], "train").sources()
    assert (first.name, first.faces, first.weight) == ("UTKFace", "none", 1.0)
    assert (second.name, second.faces, second.weight) == ("faces.parquet", "detect", 0.5)
    assert (first.options.input, first.options.age_column, first.options.labels) == (["a/UTKFace"], None, "auto")
    assert (second.options.age_column, second.options.labels) == ("years", "manifest")
    assert (first.options.gender_codes, second.options.gender_codes) == ("0=male,1=female", "1=male,2=female")
    assert first.options.unit_images == second.options.unit_images == 7


def test_one_value_is_for_all_inputs() -> None:
    sources = parse_config(EvaluateConfig, [*TWO, "--faces", "detect", "--race-column", "people"], "evaluate").sources()
    assert [(each.faces, each.options.race_column, each.weight) for each in sources] == [("detect", "people", 1.0)] * 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--faces", "none", "--faces", "detect"], "--faces is given 2 times and --input 3 times"),
        (["--source-weight", "2"] * 4, "--source-weight is given 4 times and --input 3 times"),
        (["--age-column", "a", "--age-column", "b"], "--age-column is given 2 times"),
    ],
)
def test_another_count_is_an_error_that_says_so(flags: list[str], said: str) -> None:
    config = parse_config(TrainConfig, [*TWO, "--input", "c", *flags], "train")
    with pytest.raises(ConfigError, match=f"{said}.*once, for all inputs, or once for each, in the same order"):
        config.sources()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--faces", "none", "--faces", "boxes"], "--faces: Input should be 'none' or 'detect' .given: 'boxes'"),
        (["--source-weight", "0"], "--source-weight: Input should be greater than 0"),
        (["--source-weight", "inf"], "--source-weight: Input should be a finite number"),
        (["--gender-codes", "x"], "--gender-codes: .*is not like 1=male,0=female"),
    ],
)
def test_a_wrong_value_is_named(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config(TrainConfig, [*TWO, *flags], "train")


def test_a_file_and_the_environment_may_hold_one_value_or_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        "faces: [none, detect]\nsource_weight: 2\nage_column: [null, years]\ngender_codes: {1: male, 2: female}\n"
    )
    monkeypatch.setenv("AGEGENDER_LABELS", '["filename", "manifest"]')
    monkeypatch.setenv("AGEGENDER_RACE_COLUMN", "people")
    config = parse_config(TrainConfig, [*TWO, "--config", str(file)], "train")
    assert (config.faces, config.source_weight, config.age_column) == (["none", "detect"], [2.0], [None, "years"])
    assert (config.labels, config.race_column) == (["filename", "manifest"], ["people"])
    assert config.gender_codes == ["1=male,2=female"]


def test_single_values_are_recorded_as_before_there_were_several() -> None:
    before: dict[str, Any] = {"faces": "none", "labels": "auto", "age_column": None, "gender_codes": "0=male,1=female"}
    for config in (TrainConfig(input=["a"], output="o"), EvaluateConfig(input=["a", "b"], output="o", faces="none")):
        identity = config.identity(OUTPUT, LABELS)
        assert {name: identity[name] for name in before} == before
        assert identity.get("source_weight") is None, "an earlier record has no such option"
        assert type(config).model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["UTKFace/"], ["UTKFace"]),
        (["/data/a/images", "/data/b/images/", "/data/c"], ["a/images", "b/images", "c"]),
        (["s3://bucket/train", "train", "x/train"], ["bucket/train", "train", "x/train"]),
        (["x/a", "x/a", "a"], ["x/a", "x/a 2", "a"]),
        ([".", "/"], [".", "/"]),
    ],
)
def test_sources_are_named_by_as_much_of_their_address_as_tells_them_apart(inputs: list[str], names: list[str]) -> None:
    assert source_names(inputs) == names
