"""For tests of the files that start clusters: what they must agree on, broken copies of them, and faults common to all.

A check is a function from a parsed file to its faults: none in the file that ships, and the fault in each broken copy.
"""

import copy
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHON_TAG = "py311"

ABSENT = object()
"""As a value in a broken copy: the key is left out."""


def constraint(package: str) -> str:
    found = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found, f"constraints.txt does not name {package}"
    return found[1]


RAY = constraint("ray")
IMAGE_TAG = f"{PROJECT['version']}-ray{RAY}"


def changed(original: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at the path; ABSENT removes it."""
    whole = part = copy.deepcopy(original)
    for key in path[:-1]:
        part = part[key]
    if value is ABSENT:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return whole


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(nearest key, text) of everything in a parsed file."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, key)
    else:
        yield key, str(value)


def secrets(config: Any) -> list[str]:
    named = re.compile(r"secret|password|access_key|credential|private_key|auth_token", re.I)
    perceptual_fingerprint = re.compile(
        r"\b(AKIA|ASIA)[A-Z0-9]{16}\b|PRIVATE KEY|(secret_access_key|password)\s*=", re.I
    )
    return [
        f"{key}: a credential"
        for key, text in leaves(config)
        if named.search(key) or perceptual_fingerprint.search(text)
    ]


def open_to_the_world(config: Any) -> list[str]:
    texts = [text for _, text in leaves(config)]
    found = [f"{text}: admits everyone" for text in texts if text in ("0.0.0.0/0", "::/0")]
    return found + [f"{text}: a dashboard for everyone" for text in texts if "dashboard-host=0.0.0.0" in text]
