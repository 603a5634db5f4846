"""Open a trained model's folder and make sure that it is what it says, before any image is read. Torch is not needed."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from agegender.artifact import (
    CALIBRATION_IMAGES_FILE,
    FORMAT_VERSION,
    GRAPH_FILE,
    INFO_FILE,
    TRAINING_IMAGES_FILE,
    WEIGHTS_FILE,
    ModelInfo,
)
from agegender.errors import InputError


@dataclass(frozen=True)
class LocalModel:
    """A model folder on this machine that was verified when it was opened; handed on, it is not verified again."""

    folder: Path
    info: ModelInfo

    @classmethod
    def open(cls, model: "LocalModel | Path") -> "LocalModel":
        """Verify a folder; an open model is given back.

        Raises:
            InputError: missing, damaged, of another format version, or no model of this package.
        """
        return model if isinstance(model, LocalModel) else cls(model, open_model(model))


NEEDED_FILES = (WEIGHTS_FILE, GRAPH_FILE, TRAINING_IMAGES_FILE)


def open_model(folder: Path) -> ModelInfo:
    """What ``model.json`` says, once every file beside it has been checked against its SHA-256.

    Args:
        folder: local folder that training wrote.

    Raises:
        InputError: missing, damaged, of another format version, or no model of this package.
    """
    info = _read_info(folder)
    absent = [name for name in NEEDED_FILES if name not in info.files]
    if absent:
        raise InputError(f"{folder / INFO_FILE}: damaged model, no SHA-256 of {', '.join(absent)} in it; {_COPY_AGAIN}")
    for name, wanted in info.files.items():
        _check_file(folder, name, wanted)
    return info


def training_images(folder: Path) -> npt.NDArray[np.uint64]:
    """First 8 bytes of the content hash of each image that the model was trained or calibrated on.

    Args:
        folder: of a model that ``open_model`` accepts.

    Returns:
        uint64[N], sorted, without repeats.

    Raises:
        InputError: missing or damaged.
    """
    return _read_keys(folder / TRAINING_IMAGES_FILE)


def learnt_images(folder: Path) -> npt.NDArray[np.uint64]:
    """Those of ``training_images`` that the weights come from. In a model that does not say which they are, all.

    Args, Returns, Raises: as ``training_images``.
    """
    path = folder / CALIBRATION_IMAGES_FILE
    return np.setdiff1d(training_images(folder), _read_keys(path)) if path.exists() else training_images(folder)


def _read_keys(path: Path) -> npt.NDArray[np.uint64]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {_COPY_AGAIN}") from error
    if len(data) % 8:
        raise InputError(f"{path}: damaged, {len(data)} bytes are no whole number of 8-byte hashes; {_COPY_AGAIN}")
    hashes = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    if np.any(hashes[1:] <= hashes[:-1]):
        raise InputError(f"{path}: damaged, its hashes are not in order; {_COPY_AGAIN}")
    return hashes


_COPY_AGAIN = "copy the whole model folder again, or train it again"
_TAKE_OURS = "give the model/ folder that `agegender train` wrote"


def _read_info(folder: Path) -> ModelInfo:
    path = folder / INFO_FILE
    if not folder.is_dir():
        what = "a file, not a model folder" if folder.exists() else "no such model folder"
        raise InputError(f"{folder}: {what}; {_TAKE_OURS}")
    if not path.is_file():
        seen = ", ".join(sorted(each.name for each in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{folder}: no model, or one that was never finished: no {INFO_FILE} in it, only {seen}; {_TAKE_OURS}"
        )
    try:
        said: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {_COPY_AGAIN}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged model, not whole JSON ({error}); {_COPY_AGAIN}") from error
    if not isinstance(said, dict) or "format_version" not in said:
        raise InputError(f"{path}: no model of this package: no format_version in it; {_TAKE_OURS}")
    if said["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path}: model format version {said['format_version']!r}, this release reads {FORMAT_VERSION}; "
            f"use the release that wrote it ({said.get('created_by', 'unknown')}), or train it again"
        )
    try:
        return ModelInfo.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path}: no model of this package, or a damaged one: {place}: {first['msg']}; {_TAKE_OURS}"
        ) from error


def _check_file(folder: Path, name: str, wanted: str) -> None:
    if Path(name).name != name:
        raise InputError(
            f"{folder / INFO_FILE}: damaged model, {name!r} in it is no file of this folder; {_COPY_AGAIN}"
        )
    path = folder / name
    try:
        with path.open("rb") as file:
            seen = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"{path}: damaged model, the file is missing; {_COPY_AGAIN}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {_COPY_AGAIN}") from error
    if seen != wanted:
        raise InputError(
            f"{path}: damaged model, its SHA-256 is {seen[:12]}..., {INFO_FILE} says {wanted[:12]}...; {_COPY_AGAIN}"
        )
