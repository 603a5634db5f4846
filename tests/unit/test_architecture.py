"""Holds the package to its plan: which package may import which, and where a heavy library may appear.

Read off the syntax trees, so that an import within a function or for type checking counts as well.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

VOCABULARY = {
    "agegender",
    "errors",
    "schema",
    "options",
    "option_groups",
    "recipe",
    "config",
    "training_config",
    "artifact",
    "processor",
}
MIDDLE = {"data", "model", "scoring", "evaluation", "storage"}

MAY_IMPORT = {
    **{part: set() for part in VOCABULARY},
    **{part: {part} for part in MIDDLE},
    "reports": {"reports"},
    "released": set(),
    "pipelines": {"pipelines", "reports", "released", *MIDDLE},
    "settings": {"settings"},
    "api": {"api", "pipelines", "reports", "data", "evaluation", "storage"},
    "cli": {"cli", "settings", "pipelines", "reports"},
    "jobs": {"cli", "settings", "pipelines", "reports"},
}
"""Part of the package -> the parts that it may import beside the vocabulary, which all may."""

SHARED_ROOMS = {"runtime": {"runtime"}, "source": {"source", "runtime"}, "engine": {"engine", "source", "runtime"}}
JOB_ROOMS = {"eda", "train", "evaluate", "predict", "preview", "sample", "export"}
ROOM_MAY_IMPORT = SHARED_ROOMS | {job: {job, *SHARED_ROOMS} for job in JOB_ROOMS}
"""Room of pipelines -> the rooms that it may import: what is shared knows no job, and a job no other job."""

FRONT_DOOR = {
    "agegender.api.evaluation", "agegender.api.exploration", "agegender.api.faces", "agegender.api.training",
    "agegender.pipelines.engine.batch_scorer", "agegender.pipelines.source.datasource",
}  # fmt: skip
"""What ``agegender`` itself hands out; it loads them when they are used. Nothing else imports ``api``."""

EXCEPTIONS = {
    ("agegender.scoring.gpu", f"agegender.model.{name}")
    for name in ("network", "checkpoint", "calibrated")  # the network, how it is loaded, and how it is read out
} | {("agegender", home) for home in FRONT_DOOR}

RAY_HOMES = (
    "agegender.pipelines.runtime.session",
    "agegender.pipelines.runtime.placement",
    "agegender.pipelines.runtime.metrics",
    "agegender.pipelines.engine.ray_actors",
    "agegender.pipelines.engine.gpu_actors",
    "agegender.pipelines.source.datasource",
    "agegender.pipelines.evaluate.worker",
    "agegender.pipelines.eda.tables",
    "agegender.pipelines.train",
)

LIBRARY_HOMES = {
    "ray": RAY_HOMES,
    "torch": ("agegender.model", "agegender.scoring.gpu", "agegender.pipelines.train"),
    "torchvision": ("agegender.model",),
    "onnxruntime": (
        "agegender.data.centerface",
        "agegender.data.detectors",
        "agegender.model.quantization",
        "agegender.scoring.cpu",
    ),
    "openvino": ("agegender.scoring.openvino_graphs",),
    "boto3": ("agegender.storage",),
    "botocore": ("agegender.storage",),
    "pandas": ("agegender.api",),
    "cv2": tuple(
        f"agegender.data.{name}"
        for name in ("images", "faces", "alignment", "detectors", "centerface", "corruptions", "face_quality")
    ),
}
"""Library -> the modules and packages that may import it."""

PRINTING = ("agegender.cli", "jobs")


@dataclass(frozen=True)
class Module:
    name: str
    path: str
    tree: ast.Module
    is_package: bool = False

    @property
    def part(self) -> str:
        """Its package or module right below agegender; ``jobs`` for the entry points."""
        names = self.name.split(".")
        return names[1] if len(names) > 1 and names[0] == "agegender" else names[0]


def modules_of_the_package() -> list[Module]:
    return [
        read(path.read_text(), str(path.relative_to(ROOT)))
        for folder in ("agegender", "jobs")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def read(source: str, path: str) -> Module:
    names = Path(path).with_suffix("").parts
    is_package = names[-1] == "__init__"
    return Module(".".join(names[:-1] if is_package else names), path, ast.parse(source, path), is_package)


def imports(module: Module, known: set[str]) -> Iterator[tuple[str, int]]:
    """The full name of every module that is imported, with its line.

    ``from package import name`` is the module ``package.name`` where there is one, else ``package``.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                yield (whole if whole in known else source), node.lineno


def absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
    above = package[: len(package) - (node.level - 1)]
    return ".".join([*above, *([node.module] if node.module else [])])


def is_at_home(name: str, homes: tuple[str, ...]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in homes)


def violations(modules: list[Module]) -> list[str]:
    """What is against the plan, each as what, where and the rule."""
    known = {module.name for module in modules}
    found = []
    for module in modules:
        for imported, line in imports(module, known):
            rule = direction_rule(module, imported) or room_rule(module, imported) or library_rule(module, imported)
            if rule:
                found.append(f"{module.path}:{line} imports {imported}: {rule}")
        found += [
            f"{module.path}:{line} calls print: only {' and '.join(PRINTING)} print, the rest logs or returns"
            for line in prints(module)
        ]
    return found


def direction_rule(module: Module, imported: str) -> str | None:
    """The rule that an import of our own module breaks, if any."""
    names = imported.split(".")
    if names[0] not in ("agegender", "jobs") or (module.name, imported) in EXCEPTIONS:
        return None
    part = names[1] if len(names) > 1 and names[0] == "agegender" else names[0]
    if module.part not in MAY_IMPORT:
        return f"{module.part} has no place in the plan; give it one in MAY_IMPORT and in the README's architecture"
    allowed = MAY_IMPORT[module.part]
    if part in allowed or (part in VOCABULARY and part != module.part):
        return None
    return f"{module.part} may import {', '.join(sorted(allowed | VOCABULARY - {'agegender'}))}"


def room_rule(module: Module, imported: str) -> str | None:
    """The rule that an import from one room of pipelines into another breaks, if any."""
    names, home = imported.split("."), module.name.split(".")
    if (
        names[:2] != ["agegender", "pipelines"]
        or home[:2] != ["agegender", "pipelines"]
        or len(names) < 3
        or len(home) < 3
    ):
        return None
    if home[2] not in ROOM_MAY_IMPORT:
        return f"pipelines/{home[2]} has no place in the plan; give it one in ROOM_MAY_IMPORT and in CONTRIBUTING.md"
    allowed = ROOM_MAY_IMPORT[home[2]]
    return None if names[2] in allowed else f"pipelines/{home[2]} may import {', '.join(sorted(allowed))} of pipelines"


def library_rule(module: Module, imported: str) -> str | None:
    """The rule that an import of a library breaks, if any."""
    library = imported.split(".")[0]
    homes = LIBRARY_HOMES.get(library)
    if homes is None or is_at_home(module.name, homes):
        return None
    return f"{library} lives in {', '.join(homes)} alone"


def prints(module: Module) -> list[int]:
    if is_at_home(module.name, PRINTING):
        return []
    calls = (node for node in ast.walk(module.tree) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]


def test_the_package_keeps_to_its_plan():
    assert not (found := violations(modules_of_the_package())), "\n" + "\n".join(found)


def test_the_whole_package_is_read():
    names = {module.name for module in modules_of_the_package()}
    assert {"agegender", "agegender.cli", "agegender.data.images", "agegender.pipelines.sample", "jobs.eda"} <= names


def test_unit_tests_start_no_ray():
    for path in sorted((ROOT / "tests" / "unit").rglob("*.py")):
        module = read(path.read_text(), str(path.relative_to(ROOT)))
        starts = [line for name, line in imports(module, set()) if name.split(".")[0] == "ray"]
        assert not starts, f"{module.path}:{starts} imports ray: tests that start Ray go to tests/integration"


@pytest.mark.parametrize(
    ("path", "source", "complaint"),
    [
        ("agegender/data/x.py", "import ray", ":1 imports ray: ray lives in agegender.pipelines.runtime.session"),
        ("agegender/data/x.py", "def f():\n    from ray import data", ":2 imports ray: ray lives in"),
        ("agegender/reports/x.py", "import torch.nn", "imports torch.nn: torch lives in agegender.model"),
        ("agegender/pipelines/predict/run.py", "import torch", "imports torch: torch lives in"),
        ("agegender/scoring/cpu.py", "import torch", "imports torch: torch lives in"),
        (
            "agegender/pipelines/x.py",
            "from botocore.config import Config",
            "imports botocore.config: botocore lives in",
        ),
        ("agegender/data/synthetic.py", "import cv2", "imports cv2: cv2 lives in agegender.data.images"),
        (
            "agegender/data/x.py",
            "from agegender.storage import files",
            "data may import artifact, config, data, errors",
        ),
        ("agegender/data/x.py", "from agegender import storage", "imports agegender.storage: data may import"),
        ("agegender/data/x.py", "from ..storage import files", "imports agegender.storage: data may import"),
        ("agegender/data/__init__.py", "from ..model import network", "imports agegender.model.network: data may"),
        ("agegender/scoring/cpu.py", "from agegender.model.network import Outputs", "scoring may import"),
        ("agegender/scoring/gpu.py", "from agegender.model.trainer import fit", "scoring may import"),
        ("agegender/reports/x.py", "from agegender.evaluation.metrics import mae", "reports may import"),
        ("agegender/model/x.py", "from agegender.pipelines import session", "model may import"),
        ("agegender/pipelines/x.py", "from agegender.cli import main", "pipelines may import"),
        ("agegender/schema.py", "from agegender.data import labels", "schema may import"),
        ("agegender/cli.py", "from agegender.api.faces import Faces", "cli may import"),
        ("agegender/pipelines/predict/x.py", "from agegender.api import faces", "pipelines may import"),
        ("agegender/api/x.py", "from agegender.cli import main", "api may import"),
        ("agegender/api/x.py", "import ray", "imports ray: ray lives in"),
        ("agegender/data/x.py", "import pandas", "imports pandas: pandas lives in agegender.api alone"),
        ("agegender/__init__.py", "from agegender.pipelines.predict.run import run_predict", "agegender may import"),
        ("agegender/data/x.py", "if True:\n    print('hello')", ":2 calls print: only agegender.cli and jobs print"),
        ("agegender/utils.py", "import agegender.schema", "utils has no place in the plan"),
        ("agegender/pipelines/predict/ledger.py", "import ray", "imports ray: ray lives in"),
        (
            "agegender/pipelines/runtime/x.py",
            "from agegender.pipelines.source import fetch",
            "runtime may import runtime",
        ),
        (
            "agegender/pipelines/source/x.py",
            "from agegender.pipelines.engine import poison",
            "source may import runtime, so",
        ),
        (
            "agegender/pipelines/engine/x.py",
            "from agegender.pipelines.predict import run",
            "engine may import engine, run",
        ),
        (
            "agegender/pipelines/eda/x.py",
            "from agegender.pipelines.predict.ledger import Ledger",
            "eda may import eda, en",
        ),
        ("agegender/pipelines/x.py", "from agegender.pipelines.runtime import session", "x has no place in the plan"),
    ],
)
def test_a_breach_is_caught_and_named(path, source, complaint):
    others = [read("", "agegender/storage/__init__.py"), read("", "agegender/model/network.py")]
    (found,) = violations([read(source, path), *others])
    assert found.startswith(path)
    assert complaint in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("agegender/scoring/gpu.py", "import torch\nfrom agegender.model.network import build_network"),
        ("agegender/scoring/gpu.py", "from agegender.model import network"),
        ("agegender/pipelines/train/run.py", "import torch"),
        ("agegender/pipelines/train/worker.py", "import ray.train\nimport torch.distributed"),
        ("agegender/pipelines/predict/run.py", "from agegender.pipelines.engine.poison import Task"),
        ("agegender/pipelines/eda/run.py", "from agegender.reports import page\nfrom agegender.storage import files"),
        ("agegender/config.py", "from agegender.schema import Status"),
        ("agegender/data/x.py", "from agegender import schema\nfrom . import labels\nimport numpy"),
        ("agegender/cli.py", "print('done')"),
        ("agegender/__init__.py", "from agegender.api.faces import predict"),
        ("agegender/api/faces.py", "import pandas\nfrom agegender.pipelines.predict.run import run_predict"),
        ("jobs/eda.py", "from agegender.cli import run_job\nprint('done')"),
    ],
)
def test_what_the_plan_allows_is_not_caught(path, source):
    others = [read("", f"agegender/{name}.py") for name in ("schema", "model/network", "data/labels")]
    assert violations([read(source, path), *others]) == []
