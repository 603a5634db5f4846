import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from agegender.artifact import NetworkConfig
from agegender.cli import JOBS, main
from agegender.config import EvaluateConfig, PredictConfig, PreviewConfig, RescoreConfig, RetryStatus
from agegender.errors import ConfigError
from agegender.schema import Status
from agegender.settings import parse_config
from agegender.training_config import TrainConfig

TRAIN = ["--input", "faces", "--output", "out"]


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("epochs: 3\nbatch_size: 32\nseed: 5\ninput: [elsewhere]\n")
    monkeypatch.setenv("AGEGENDER_BATCH_SIZE", "16")
    monkeypatch.setenv("AGEGENDER_SEED", "6")
    config = parse_config(TrainConfig, [*TRAIN, "--config", str(file), "--seed", "7"], "train")
    assert (config.epochs, config.batch_size, config.seed, config.input) == (3, 16, 7, ["faces"])
    assert config.augment.zoom_min == TrainConfig.model_fields["augment"].default.zoom_min


@pytest.mark.parametrize(
    ("flags", "learning_rate"),
    [
        ([], 5e-3),
        (["--batch-size", "512"], 1e-2),
        (["--batch-size", "32"], 2.5e-3),
        (["--batch-size", "512", "--learning-rate", "0.001"], 1e-3),
        (["--preset", "large"], 7e-3),
        (["--preset", "large", "--batch-size", "64"], 3.5e-3),
        (["--preset", "mobilenet"], 3e-4),
        (["--preset", "notebook"], 1e-3),
        (["--preset", "notebook", "--batch-size", "256"], 2e-3),
    ],
)
def test_the_learning_rate_follows_the_batch_size_unless_it_is_given(flags: list[str], learning_rate: float) -> None:
    config = parse_config(TrainConfig, [*TRAIN, *flags], "train")
    assert config.learning_rate == pytest.approx(learning_rate)
    again = TrainConfig.model_validate_json(config.model_dump_json())
    assert again.learning_rate == config.learning_rate, "the recorded value is the one that counts"


def test_what_is_said_wins_over_the_preset_and_the_preset_over_defaults() -> None:
    flags = ["--preset", "notebook", "--epochs", "2", "--augment.zoom-min", "0.9"]
    config = parse_config(TrainConfig, [*TRAIN, *flags], "train")
    assert (config.epochs, config.age_head, config.backbone) == (2, "scalar", "notebook")
    assert (config.augment.zoom_min, config.augment.zoom_max, config.augment.flip_probability) == (0.9, 1.0, 0.0)


def test_the_preset_that_tunes_mobilenet_sees_176_pixels() -> None:
    config = parse_config(TrainConfig, [*TRAIN, "--preset", "mobilenet"], "train")
    network = NetworkConfig(**{name: getattr(config, name) for name in NetworkConfig.model_fields})
    assert (network.backbone, network.image_size_px, network.crop_size_px) == ("mobilenet_v1", 192, 176)
    assert network.for_scoring(config.augment.zoom_min).image_size_px == 184
    assert config.optimizer == "adamw"


def test_a_head_that_nothing_would_teach_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"age_error_weight 0 with age_head scalar.*give --age-error-weight 0\.2"):
        parse_config(TrainConfig, [*TRAIN, "--age-head", "scalar", "--age-error-weight", "0"], "train")
    assert parse_config(TrainConfig, [*TRAIN, "--age-head", "scalar"], "train")


def test_input_may_be_repeated_and_hold_commas() -> None:
    names = ["a,b", "Müller", 'say "x"', "back\\slash", "[x]", " sp ", "M\udcfcller", "true", "7", "null"]
    flags = [token for name in names for token in ("--input", name)]
    config = parse_config(PredictConfig, [*flags, "--output", "o", "--model", "m"], "predict")
    assert config.input == names


def test_images_can_be_left_out_of_reports() -> None:
    flags = ["--input", "a", "--output", "o", "--model", "m", "--no-images"]
    assert parse_config(EvaluateConfig, flags, "evaluate").images is False


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--input", "a"], ["--output", "required"]),
        ([*TRAIN, "--epochs", "0"], ["--epochs", "greater than or equal to 1", "'0'"]),
        ([*TRAIN, "--augment.zoom-min", "2"], ["--augment.zoom-min", "'2'"]),
        ([*TRAIN, "--val-fraction", "0.6", "--test-fraction", "0.6"], ["val_fraction 0.6 + test_fraction 0.6"]),
        ([*TRAIN, "--num-workers", "2", "--min-workers", "3"], ["min_workers 3 is above num_workers 2"]),
        ([*TRAIN, "--config", "no-such.yaml"], ["--config no-such.yaml", "no such file"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(flags: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(TrainConfig, flags, "agegender train")
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_name_in_the_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("epoch: 3\n")
    with pytest.raises(ConfigError, match=r"train\.yaml, line 1: epoch: no such setting\. Did you mean epochs\?"):
        parse_config(TrainConfig, [*TRAIN, "--config", str(file)], "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs: 1\n\tseed: 1\n", r"train\.yaml, line 2, column 1: not YAML: .*spaces, not with tabs"),
        (b"epochs: [1\n", r"train\.yaml, line 2, column 1: not YAML"),
        (b"- epochs\n- 3\n", r"train\.yaml, line 1: a list\. Write settings"),
        (b"epochs 3\n", r"train\.yaml, line 1: a text\. Write settings"),
        (b"seed: 1\n# M\xfcller\n", r"train\.yaml, line 2: not UTF-8"),
        (b"seed: 1\nepochs: \x00\n", r"train\.yaml, line 2: not YAML"),
        (b"seed: 1\nepochs: 3\nseed: 2\n", r"train\.yaml, line 3: seed is there twice, first in line 1"),
        (b"seed: 1\nepochs: many\n", r"train\.yaml, line 2: epochs: .* \(given: 'many'\)"),
        (
            b"augment:\n  zoom_mim: 1\n",
            r"train\.yaml, line 1: augment\.zoom_mim: no such setting\. Did you mean zoom_min\?",
        ),
    ],
)
def test_a_wrong_file_is_named_with_its_line(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        parse_config(TrainConfig, [*TRAIN, "--config", str(file)], "train")


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_bytes(b"\xef\xbb\xbf# nothing yet\n")
    assert parse_config(TrainConfig, [*TRAIN, "--config", str(file)], "train").input == ["faces"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epocs", "3"], r"unknown option --epocs\. Did you mean --epochs\?"),
        (["--augment.zoom-mim=1"], r"unknown option --augment\.zoom-mim\. Did you mean --augment\.zoom-m"),
        (["--confg", "a.yaml"], r"unknown option --confg\. Did you mean --config\?"),
        (["-o", "out"], r"unknown option -o\. `train --help`"),
        (["--epochs"], r"argument --epochs: expected one argument\. `train --help`"),
        (["--config"], r"--config: expected one argument"),
    ],
)
def test_an_unknown_flag_is_named_with_a_similar_one(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(TrainConfig, [*TRAIN, *flags], "train")


@pytest.mark.parametrize(
    ("flags", "inputs"),
    [
        (["photos", "--output", "o"], ["photos"]),
        (["--output", "o", "a,b", "c"], ["a,b", "c"]),
        (["a", "--input", "b", "--output=o", "c", "--input=d,e"], ["b", "d,e", "a", "c"]),
        (["--dry-run", "a", "--output", "o"], ["a"]),
        (["--output", "o", "--", "-x.jpg", "--y"], ["-x.jpg", "--y"]),
    ],
)
def test_inputs_may_be_given_by_position(flags: list[str], inputs: list[str]) -> None:
    config = parse_config(PredictConfig, flags, "predict")
    assert (config.input, config.output) == (inputs, "o")


def test_positions_of_jobs_without_input_stay_their_own() -> None:
    config = parse_config(PreviewConfig, ["a,b.jpg", "c.jpg", "--faces", "none", "d"], "preview")
    assert config.photographs == ["a,b.jpg", "c.jpg", "d"]


@pytest.mark.parametrize(
    ("value", "inputs"), [("a, b", ["a", "b"]), ('["a,b", "c"]', ["a,b", "c"]), ("s3://bucket/a", ["s3://bucket/a"])]
)
def test_lists_in_the_environment_have_commas_or_are_json(
    value: str, inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGEGENDER_INPUT", value)
    assert parse_config(PredictConfig, ["--output", "o"], "predict").input == inputs


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AGEGENDER_INPUT", '["a"', r"AGEGENDER_INPUT: begins as a JSON list and is none"),
        ("AGEGENDER_INPUT", "", r"AGEGENDER_INPUT: List should have at least 1 item"),
        ("AGEGENDER_BATCH_SIZE", "many", r"AGEGENDER_BATCH_SIZE: .*\(given: 'many'\)"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        parse_config(PredictConfig, ["--output", "o"], "predict")


@pytest.mark.parametrize("job", JOBS)
def test_every_default_can_be_given_as_a_flag(job: str) -> None:
    config_class = JOBS[job].config
    required = [name for name, field in config_class.model_fields.items() if field.is_required()]
    by_position = ("photographs",) if job == "preview" else ("output",) if job in ("rescore", "status") else ()
    needed = [word for name in required for word in (["x"] if name in by_position else [f"--{name}", "x"])]
    expected = parse_config(config_class, needed, job)
    for name, field in config_class.model_fields.items():
        if isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
            flag = f"--{name.replace('_', '-')}"
            assert parse_config(config_class, [*needed, flag, str(field.default)], job) == expected, flag


@pytest.mark.parametrize("columns", ["", "wide", "0", "-3", "40"])
def test_help_is_shown_in_any_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as caught:
        main(["predict", "--help"])
    assert caught.value.code == 0
    assert "--output" in capsys.readouterr().out


@pytest.mark.parametrize("job", JOBS)
def test_help_teaches_with_an_example_units_and_exit_codes(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([job, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert f"agegender {job} " in shown
    assert "exit codes:" in shown
    assert "--config FILE" in shown


def test_the_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert all(f"\n  {job} " in shown for job in JOBS)


def test_a_wrong_command_exits_with_2() -> None:
    assert main(["predicct"]) == 2


def test_help_loads_neither_ray_nor_torch() -> None:
    code = "import sys, agegender.cli; print(sorted({'ray', 'torch', 'numpy', 'pandas', 'pyarrow'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_every_status_but_ok_can_be_tried_again() -> None:
    assert set(get_args(RetryStatus)) == {status.value for status in Status} - {"ok"}
    flags = ["out", "--status", "missing", "--status", "empty", "--changed"]
    config = parse_config(RescoreConfig, flags, "rescore")
    assert (config.output, config.status, config.changed) == ("out", ["missing", "empty"], True)
