"""Dockerfile and .dockerignore, without a Docker: versions, sources, user, and nothing private."""

import fnmatch
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from agegender.pipelines.runtime import detector
from tests.support.deploy_files import IMAGE_TAG, PYTHON_TAG, RAY, ROOT


def dockerfile_faults(text: str, ignore: str) -> list[str]:
    lines = text.replace("\\\n", " ").splitlines()
    steps = [tuple(line.split(None, 1)) for line in lines if line.strip() and not line.startswith("#")]
    faults = [] if f"rayproject/ray:{RAY}-{PYTHON_TAG}-${{VARIANT}}" in text else [f"FROM: not Ray {RAY}"]
    users = [rest for step, rest in steps if step == "USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:\d+)?", users[-1]):
        faults.append("USER: root, or a name, of which Kubernetes cannot tell that it is not root")
    copied = [s for step, rest in steps if step == "COPY" for s in re.sub(r"--\S+", "", rest).split()[:-1]]
    sources = [
        source.replace("[x]", "x") for source in copied
    ]  # a pattern may match nothing: for a file that may be absent
    faults += [f"COPY {source}: not there" for source in copied if "[x]" not in source and not (ROOT / source).exists()]
    faults += [f"COPY {source}: in .dockerignore" for source in sources if ignored(source, ignore)]
    commands = [part for step, rest in steps if step == "RUN" for part in rest.split("&&") if "pip install" in part]
    unpinned = [command.strip() for command in commands if "--constraint constraints.txt" not in command]
    faults += [f"RUN {command}: without the versions of constraints.txt" for command in unpinned]
    if '".[${EXTRAS}]"' not in text or ("ARG", "EXTRAS=train") not in steps:
        faults.append("no extra train, so its nodes cannot train")
    if any(step == "ADD" or re.search(r"secret|password|access_key", rest, re.I) for step, rest in steps):
        faults.append("ADD, or a secret in a layer")
    return faults


def ignored(path: str, patterns: str) -> bool:
    """Whether .dockerignore leaves a path out: the last pattern that matches it or a folder above it decides."""
    left_out = False
    above = [str(parent) for parent in (Path(path), *Path(path).parents)]
    for line in patterns.splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        names = [Path(each).name for each in above] if pattern.startswith("**/") else above
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in names):
            left_out = not line.startswith("!")
    return left_out


DOCKERFILE = (ROOT / "Dockerfile").read_text()
IGNORE = (ROOT / ".dockerignore").read_text()


def test_the_image_is_built_of_files_that_are_there_and_of_nothing_private() -> None:
    assert dockerfile_faults(DOCKERFILE, IGNORE) == []
    assert f"agegender:{IMAGE_TAG}-cpu" in DOCKERFILE
    for needed in (
        "agegender/released/fast/model/model.onnx",
        "agegender/reports/templates/page.html.j2",
        "jobs/eda.py",
    ):
        assert (ROOT / needed).exists()
        assert not ignored(needed, IGNORE), needed
    for private in (".git/config", ".venv/bin/python", "UTKFace/1.jpg", "out/x", ".env", "agegender/__pycache__/x.pyc"):
        assert ignored(private, IGNORE), private


def test_the_detector_goes_to_where_jobs_look_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cache = detector.cache_folder()
    assert f"onn[x] /home/ray/{cache.relative_to(tmp_path)}/" in DOCKERFILE
    assert f" {detector.DETECTOR_FILE.removesuffix('x')}[x] " in DOCKERFILE
    command = next(
        line for line in yaml.safe_load((ROOT / "cluster.yaml").read_text())["setup_commands"] if "onnx" in line
    )
    subprocess.run(["sh", "-ec", command], check=True)  # without the file it does nothing
    assert list(cache.iterdir()) == []
    (tmp_path / "agegender").mkdir()
    (tmp_path / "agegender" / detector.DETECTOR_FILE).write_bytes(b"file")
    subprocess.run(["sh", "-ec", command], check=True)
    assert (cache / detector.DETECTOR_FILE).read_bytes() == b"file"


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (f"ray:{RAY}-", "ray:latest-", "FROM: not Ray"),
        ("USER 1000:100", "USER ray", "USER: root, or a name"),
        ("USER 1000:100", "USER 0", "USER: root, or a name"),
        ("constraints.txt README.md", "constraints.txt READ.md", "COPY READ.md: not there"),
        ("COPY --chown=1000:100 jobs jobs", "COPY --chown=1000:100 tests tests", "COPY tests: in .dockerignore"),
        ("--compile-bytecode --constraint constraints.txt", "", "without the versions of constraints.txt"),
        (".[${EXTRAS}]", ".", "cannot train"),
        ("ARG EXTRAS=train", "ARG EXTRAS=", "cannot train"),
        ("WORKDIR", "ENV AWS_SECRET_ACCESS_KEY=x\nWORKDIR", "a secret in a layer"),
    ],
)
def test_a_fault_of_the_image_is_found(old: str, new: str, fault: str) -> None:
    assert old in DOCKERFILE
    found = dockerfile_faults(DOCKERFILE.replace(old, new), IGNORE)
    assert any(fault in one for one in found), found
