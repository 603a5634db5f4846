"""What a process that scores imports: every module is start-up time of every worker, and memory on every CPU."""

import json
import subprocess
import sys

import pytest

LIBRARIES = {
    "PIL", "cv2", "simplejpeg",  # decode
    "onnxruntime",  # score
    "numpy", "pyarrow",
    "pydantic", "pydantic_core", "pydantic_settings", "annotated_types", "dotenv", "typing_extensions", "typing_inspection",
}  # fmt: skip
"""Beside what Ray itself imports, where the process is an actor."""

NEVER = {"torch", "torchvision", "pandas", "matplotlib", "tensorboard", "onnx", "jinja2", "boto3"}

SHOW = """
import importlib, json, sys
def named():
    return {name for name, module in list(sys.modules.items()) if getattr(module, "__spec__", None) is not None}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
before = {name.split(".")[0] for name in named()}
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
libraries = {name.split(".")[0] for name in named()}
print(json.dumps({
    "libraries": sorted(name for name in libraries if name not in sys.stdlib_module_names and not name.startswith("_")),
    "new": sorted(libraries - before),
    "ours": sorted(name for name in named() if name.partition(".")[0] == "agegender"),
}))
"""


def imported(first: list[str], modules: list[str]) -> dict[str, set[str]]:
    """What a new process imports with ``modules`` once ``first`` is imported."""
    command = [sys.executable, "-c", SHOW, json.dumps(first), json.dumps(modules)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: set(found) for name, found in json.loads(done.stdout).items()}


@pytest.mark.parametrize(
    ("engine", "first", "most_modules"),
    [("local", [], 49), ("ray_actors", ["ray"], 50)],
)
def test_a_process_that_scores_imports_no_more_than_this(engine: str, first: list[str], most_modules: int) -> None:
    modules = [f"agegender.pipelines.engine.{engine}", "agegender.pipelines.predict.worker"]
    found = imported(first, modules)
    assert not found["libraries"] & NEVER
    more = {name for name in found["new"] & found["libraries"] if name != "agegender"} - LIBRARIES
    assert not more, "a library in every worker: import it where it is used, or say here what it is for"
    assert len(found["ours"]) <= most_modules, "import less, or say in the commit why workers need more of the package"
    assert ("ray" in found["libraries"]) == (engine == "ray_actors")
