"""Open and verify a model folder. Does not import torch."""

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
    INT8_GRAPH_FILE,
    TRAINING_IMAGES_FILE,
    WEIGHTS_FILE,
    ModelInfo,
)
from agegender.errors import ConfigError, InputError


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


REQUIRED_FILES = (WEIGHTS_FILE, GRAPH_FILE, TRAINING_IMAGES_FILE)


def open_model(folder: Path) -> ModelInfo:
    """Read ``model.json`` and verify the SHA-256 of all other files.

    Args:
        folder: local model folder.

    Raises:
        InputError: missing, damaged, of another format version, or not a model of this package.
    """
    info = _read_info(folder)
    missing = [name for name in REQUIRED_FILES if name not in info.files]
    if missing:
        raise InputError(f"{folder / INFO_FILE}: damaged model, no SHA-256 of {', '.join(missing)}; {_COPY_AGAIN}")
    for name, sha256 in info.files.items():
        _check_file(folder, name, sha256)
    return info


def check_precision(info: ModelInfo, precision: str, model: str) -> None:
    """Refuse int8 for a model that has no int8 graph.

    Args:
        info: of the model.
        precision: as asked for.
        model: its address, for the message.

    Raises:
        ConfigError: there is none.
    """
    if precision == "int8" and INT8_GRAPH_FILE not in info.files:
        raise ConfigError(
            f"--precision int8: {model} has no {INT8_GRAPH_FILE} ({info.created_by or 'an older release'} wrote it, backbone "
            f"{info.network.backbone!r}). Score with --precision auto or float32, or train a model with this release"
        )


def training_images(folder: Path) -> npt.NDArray[np.uint64]:
    """First 8 bytes of the content hash of each image that the model was trained or calibrated on.

    Args:
        folder: of a model that ``open_model`` accepts.

    Returns:
        uint64[N], sorted and unique.

    Raises:
        InputError: missing or damaged.
    """
    return _read_keys(folder / TRAINING_IMAGES_FILE)


def weight_training_images(folder: Path) -> npt.NDArray[np.uint64]:
    """The part of ``training_images`` that the weights were trained on; all of them if the model does not distinguish.

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
        raise InputError(f"{path}: damaged, its {len(data)} bytes are not a multiple of 8; {_COPY_AGAIN}")
    hashes = np.frombuffer(data, dtype="<u8").astype(np.uint64)
    if np.any(hashes[1:] <= hashes[:-1]):
        raise InputError(f"{path}: damaged, its hashes are not in order; {_COPY_AGAIN}")
    return hashes


_COPY_AGAIN = "copy the whole model folder again, or retrain"
_GIVE_MODEL_FOLDER = "give the model/ folder that `agegender train` wrote"


def _read_info(folder: Path) -> ModelInfo:
    path = folder / INFO_FILE
    if not folder.is_dir():
        what = "a file, not a model folder" if folder.exists() else "no such model folder"
        raise InputError(f"{folder}: {what}; {_GIVE_MODEL_FOLDER}")
    if not path.is_file():
        names = ", ".join(sorted(each.name for each in folder.iterdir())[:5]) or "nothing"
        raise InputError(
            f"{folder}: not a model, or an incomplete one: has no {INFO_FILE}, only {names}; {_GIVE_MODEL_FOLDER}"
        )
    try:
        content: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {_COPY_AGAIN}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged model, not valid JSON ({error}); {_COPY_AGAIN}") from error
    if not isinstance(content, dict) or "format_version" not in content:
        raise InputError(f"{path}: not a model of this package: has no format_version; {_GIVE_MODEL_FOLDER}")
    if content["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path}: model format version {content['format_version']!r}, this release reads {FORMAT_VERSION}; "
            f"use the release that wrote it ({content.get('created_by', 'unknown')}), or retrain"
        )
    try:
        return ModelInfo.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path}: not a model of this package, or damaged: {field}: {first['msg']}; {_GIVE_MODEL_FOLDER}"
        ) from error


def _check_file(folder: Path, name: str, sha256: str) -> None:
    if Path(name).name != name:
        raise InputError(
            f"{folder / INFO_FILE}: damaged model, it lists {name!r}, which is not a file of this folder; {_COPY_AGAIN}"
        )
    path = folder / name
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"{path}: damaged model, the file is missing; {_COPY_AGAIN}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {_COPY_AGAIN}") from error
    if actual != sha256:
        raise InputError(
            f"{path}: damaged model, its SHA-256 is {actual[:12]}..., expected {sha256[:12]}... ({INFO_FILE}); {_COPY_AGAIN}"
        )
