"""What the command line says and returns where something outside of a job is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agegender import cli
from agegender.cli import main
from agegender.config import StatusConfig
from agegender.data.synthetic import draw_sample
from agegender.pipelines.runtime.detector import DETECTOR_FILE

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "agegender.cli"]


def run(*arguments: str, command: list[str] = COMMAND, **variables: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([*command, *arguments], capture_output=True, env=environment, timeout=120, check=False)


def test_a_wrong_command_is_told_a_similar_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predcit", "--input", "a"]) == 2
    assert "no command 'predcit'. Did you mean predict?" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[*COMMAND, "predict"], [sys.executable, str(ROOT / "jobs" / "predict.py")]])
def test_a_wrong_input_is_said_before_a_model_or_a_detector_is_looked_for(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    flags = [
        str(tmp_path / "photo"),
        "--output",
        str(tmp_path / "out"),
        "--model",
        "no/model",
        "--detector-model",
        "no.onnx",
    ]
    done = run(*flags, command=command)
    assert done.returncode == 3
    assert f"photo: no such file or folder. In {tmp_path} there is photos" in done.stderr.decode()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("job", "flag"), [("predict", "--input"), ("preview", None)])
def test_without_a_network_the_first_photographs_end_with_4_and_with_what_can_be_done(
    job: str, flag: str | None, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(draw_sample(0, 0, 64)[1])
    closed = {
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "AGEGENDER_DETECTOR_MODEL": "",
    }
    output = ["--output", str(tmp_path / "out")]
    done = run(job, *filter(None, [flag]), str(tmp_path / "photos"), *output, command=COMMAND, **closed)
    said = done.stderr.decode()
    assert done.returncode == 4, said
    assert "the face detector cannot be downloaded" in said
    file = tmp_path / "cache" / "agegender" / DETECTOR_FILE
    for way in (f"put the file at {file}", "--detector-model", "--faces none", "--detector centerface"):
        assert way in said
    wrong = run(job, *filter(None, [flag]), str(tmp_path / "photo"), *output, command=COMMAND, **closed)
    assert wrong.returncode == 3
    assert "photo: no such file or folder" in wrong.stderr.decode()
    assert "detector" not in wrong.stderr.decode()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("level", ["debug", "Warning", "INFO"])
def test_a_log_level_may_be_written_in_any_case(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGEGENDER_LOG_LEVEL", level)
    assert cli._log_level() == level.upper()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AGEGENDER_LOG_LEVEL", "debugs", "AGEGENDER_LOG_LEVEL=debugs: no level of the log. Did you mean DEBUG?"),
        ("AGEGENDER_DEBUG", "maybe", "AGEGENDER_DEBUG=maybe: neither on nor off"),
    ],
)
def test_a_wrong_word_in_the_environment_is_exit_code_2(
    variable: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["status", "nowhere"]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_variable_is_a_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("NUM_WORKER", "SERVICE_HOST", "PORT_80_TCP_ADDR", "DETECTOR_MODEL", "AUGMENT__ZOOM_MIN", "UTKFACE"):
        monkeypatch.setenv(f"AGEGENDER_{name}", "1")
    cli._warn_of_unknown_variables()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "AGEGENDER_NUM_WORKER is no setting of agegender, and ignored. Did you mean AGEGENDER_NUM_WORKERS?"


def fail(_config: StatusConfig) -> dict[str, Any]:
    raise KeyError("a worker said:\n  File x\nValueError: the cause")


@pytest.mark.parametrize("debug", [False, True])
def test_a_defect_is_one_line_and_its_traceback_is_shown_on_request(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("agegender.pipelines.predict.status.run_status", fail)
    assert main(["status", "out", *(["--debug"] if debug else [])]) == 1
    said = capsys.readouterr().err
    assert ("Traceback" in said) is debug
    assert "agegender status: internal error: KeyError:" in said.splitlines()[-1]
    assert "the cause" in said.splitlines()[-1]
    assert "please report it" in said.splitlines()[-1]


def test_an_expected_error_has_no_traceback_unless_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 3
    assert "Traceback" not in capsys.readouterr().err
    assert main(["status", str(tmp_path), "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("variables", [{}, {"PYTHONUNBUFFERED": "1"}])
@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["status"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str], variables: dict[str, str], tmp_path: Path) -> None:
    if arguments == ["status"]:
        arguments = ["status", str(tmp_path)]
        record = {
            "job": "predict",
            "state": "failed",
            "error": "why",
            "identity": {},
            "config": {"model": "m"},
            "result": {},
        }
        (tmp_path / "_run.json").write_text(json.dumps(record))
    reading, writing = os.pipe()
    os.close(reading)  # nobody reads: the first write fails
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([*COMMAND, *arguments], stdout=writing, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_locale_that_is_not_utf8_changes_no_name(tmp_path: Path) -> None:
    folder = tmp_path / "Müller"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(draw_sample(0, 0, 64)[1])
    variables = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    arguments = ["preview", str(folder), "--faces", "none", "--output", str(tmp_path / "out")]
    done = run(*arguments, command=COMMAND, **variables)
    assert done.returncode == 0, done.stderr.decode()
    record = json.loads((tmp_path / "out" / "_run.json").read_bytes())
    assert record["config"]["photographs"] == [str(folder)]


def test_a_name_that_is_not_utf8_is_shown_in_an_error(tmp_path: Path) -> None:
    missing = os.fsencode(tmp_path) + b"/M\xfcller"
    command = [*map(os.fsencode, COMMAND), b"predict", missing, b"--output", os.fsencode(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 3
    assert b"no such file or folder" in done.stderr
    assert b"Traceback" not in done.stderr
