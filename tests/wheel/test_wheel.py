"""The package as its users get it: a wheel, in environments that hold nothing else, with the versions of constraints.txt.

Nothing here imports agegender: every command is that of the environment that the wheel was installed into.
"""

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pyarrow.dataset
import pytest

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
UV = str(Path(sys.executable).with_name("uv"))
COMMAND_TIMEOUT_S = 400
WHEEL_BYTES = 40_000_000
IMAGES = 60

GPU_IN_NAME = """
import sys
from agegender import cli
from agegender.pipelines.engine import gpu_actors
gpu_actors.RESOURCE, gpu_actors.DEVICE = "node:__internal_head__", "cpu"
sys.exit(cli.main(sys.argv[1:]))
"""
"""agegender, with a resource that every machine has in the place of a GPU."""


class Environment:
    """A virtual environment with the wheel, and a working folder without the project."""

    def __init__(self, folder: Path, wheel: Path, extra: str = "") -> None:
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        self.venv = folder / "venv"
        self._bin = self.venv / "bin"
        python = str(self._bin / "python")
        call([UV, "venv", "--quiet", "--python", sys.executable, str(self.venv)])
        versions = ["--constraint", str(CONSTRAINTS)]
        call([UV, "pip", "install", "--quiet", "--python", python, *versions, f"agegender{extra} @ {wheel.as_uri()}"])
        size = call(["du", "-sh", str(self.venv)]).stdout.split()[0]
        print(f"\ninstalled size of agegender{extra}: {size}")

    def agegender(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.run([str(self._bin / "agegender"), *arguments])

    def python(self, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.run([str(self._bin / "python"), "-c", code, *arguments])

    def run(self, command: list[str]) -> "subprocess.CompletedProcess[str]":
        ours = ("PYTHONPATH", "VIRTUAL_ENV", "RAY_ADDRESS")
        env = {name: value for name, value in os.environ.items() if name not in ours}
        return subprocess.run(
            command, cwd=self.work, env=env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )

    def installed(self) -> set[str]:
        """Every package with its version, as in constraints.txt."""
        listed = call([UV, "pip", "freeze", "--python", str(self._bin / "python")]).stdout.splitlines()
        return {line for line in listed if not line.startswith("agegender")}


def call(command: list[str]) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def succeed(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names(packages: Iterable[str]) -> set[str]:
    return {package.partition("==")[0] for package in packages}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that what that lacks is missing here too."""
    folder = tmp_path_factory.mktemp("dist")
    versions = ["--build-constraint", str(CONSTRAINTS)]
    call([UV, "build", "--quiet", *versions, "--out-dir", str(folder), str(ROOT)])
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("plain"), wheel)
    succeed(environment.agegender("sample", "--output", "faces", "--count", str(IMAGES)))
    return environment


def test_the_wheel_holds_the_model_its_terms_and_the_templates(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = call(["git", "-C", str(ROOT), "ls-files", "agegender"]).stdout.splitlines()
    assert set(tracked) <= held
    assert not [name for name in held if not name.startswith(("agegender/", "agegender-"))]
    assert wheel.stat().st_size < WHEEL_BYTES


def test_the_versions_are_those_that_the_tests_passed_with(plain: Environment) -> None:
    assert plain.installed() <= set(CONSTRAINTS.read_text().splitlines())


def test_a_released_model_is_there_by_its_name_or_is_said_to_be_absent(wheel: Path, plain: Environment) -> None:
    held = zipfile.ZipFile(wheel).namelist()
    for name in ("fast", "accurate", "open"):
        done = plain.agegender("export", "--model", name, "--output", f"{name}.onnx")
        if f"agegender/released/{name}/model/model.json" in held:
            succeed(done)
        else:
            assert done.returncode == 3 and f"make release MODEL={name}" in done.stderr, done.stderr
            assert "Traceback" not in done.stderr


def test_it_scores_and_explores_without_torch(plain: Environment) -> None:
    said = plain.python("import torch")
    assert "No module named 'torch'" in said.stderr
    assert not names(plain.installed()) & {"torch", "torchvision", "tensorboard", "onnx", "triton", "nvidia-cublas"}
    succeed(plain.agegender("predict", "--input", "faces", "--output", "predictions", "--faces", "none"))
    table = pyarrow.dataset.dataset(plain.work / "predictions", format="parquet").to_table()
    assert table["status"].to_pylist() == ["ok"] * IMAGES
    assert f"ok {IMAGES}" in succeed(plain.agegender("status", "predictions"))
    succeed(plain.agegender("eda", "--input", "faces", "--output", "eda"))
    assert (plain.work / "eda" / "report.html").stat().st_size > 100_000
    succeed(plain.agegender("evaluate", "--input", "faces", "--output", "evaluation", "--faces", "none"))
    assert (plain.work / "evaluation" / "metrics.json").exists()
    image = str(next((plain.work / "faces").glob("*.jpg")))
    succeed(plain.agegender("preview", image, "--output", "preview", "--faces", "none"))
    succeed(plain.agegender("export", "--output", "model.onnx"))
    assert (plain.work / "model.onnx").stat().st_size > 1_000_000


def test_what_needs_torch_says_what_to_install(plain: Environment) -> None:
    trained = plain.agegender("train", "--input", "faces", "--output", "train")
    scored = plain.python(GPU_IN_NAME, "predict", "--input", "faces", "--output", "gpu", "--faces", "none", "--use-gpu")
    for done in (trained, scored):
        assert done.returncode == 2, done.stderr
        assert done.stderr.rstrip().endswith("not installed here: pip install 'agegender[train]'")
        assert "Traceback" not in done.stderr
    assert "training needs onnx, safetensors, tensorboard, torch, torchvision" in trained.stderr
    assert "scoring on a GPU needs torch" in scored.stderr
    assert not (plain.work / "train").exists()


def test_with_the_extra_it_trains(wheel: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path, wheel, "[train]")
    assert environment.installed() <= set(CONSTRAINTS.read_text().splitlines())
    succeed(environment.agegender("sample", "--output", "faces", "--count", str(IMAGES)))
    flags = ("--epochs", "1", "--image-size-px", "40", "--batch-size", "16", "--num-workers", "1")
    succeed(environment.agegender("train", "--input", "faces", "--output", "train", *flags))
    model = str(environment.work / "train" / "model")
    inputs = ("--input", "faces", "--model", model, "--faces", "none")
    succeed(environment.agegender("predict", *inputs, "--output", "predictions"))
    table = pyarrow.dataset.dataset(environment.work / "predictions", format="parquet").to_table()
    assert table["status"].to_pylist() == ["ok"] * IMAGES
