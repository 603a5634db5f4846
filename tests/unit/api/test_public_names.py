"""``import agegender``: what it offers, and that it loads next to nothing."""

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import agegender

ROOT = Path(__file__).parents[3]
FUNCTIONS = {"predict", "eda", "train", "evaluate", "read", "Scorer", "Decoder"}
HEAVY = {"ray", "torch", "pandas", "pyarrow", "numpy", "pydantic", "boto3", "matplotlib", "cv2"}

PROGRAM = """
import json, sys, time
started_s = time.perf_counter()
import agegender
elapsed_s = time.perf_counter() - started_s
print(json.dumps([elapsed_s, sorted({name.partition(".")[0] for name in sys.modules}), dir(agegender)]))
"""


def test_the_import_loads_no_heavy_library_and_takes_no_time() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    elapsed_s, loaded, names = json.loads(done.stdout)
    assert not HEAVY & set(loaded)
    assert elapsed_s < 0.5, "0.1 s is promised; the rest is for a busy machine"
    assert set(names) >= FUNCTIONS


def test_the_public_names_are_said_once_and_explicitly() -> None:
    assert set(agegender.__all__) == FUNCTIONS | {"__version__"}
    assert set(agegender._HOMES) == FUNCTIONS


@pytest.mark.parametrize("name", ["predict", "eda", "train", "evaluate"])
def test_each_function_is_there_with_the_options_of_its_command_in_signature_and_help(name: str) -> None:
    import inspect

    from agegender.cli import JOBS

    function = getattr(agegender, name)
    assert getattr(agegender, name) is function
    parameters = inspect.signature(function).parameters
    options = set(JOBS[name].config.model_fields) - {"input", "dry_run"}
    assert set(parameters) - {"source", "show_images"} == options
    differing = {"max_bad_fraction": 1.0} if name == "predict" else {}
    for option in options - {"output", "model"}:
        field = JOBS[name].config.model_fields[option]
        assert parameters[option].default == differing.get(option, field.get_default(call_default_factory=True))
    assert "Example" in function.__doc__
    for option in options - {"output", "model"}:
        assert f"    {option}: " in function.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'agegender' has no attribute 'predcit'"):
        getattr(agegender, "predcit")  # noqa: B009  # a checker would see it


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert agegender.__version__ == project["version"] == importlib.metadata.version("agegender")


def test_the_wheel_carries_the_mark_of_a_typed_package() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data["agegender"]
    assert (ROOT / "agegender" / "py.typed").read_bytes() == b""
