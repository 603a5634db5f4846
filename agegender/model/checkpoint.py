"""Write and read what training saves: the model folder of ``artifact``, and the training state of a checkpoint.

Tensors are safetensors, everything else is JSON: loading a file cannot run code.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import agegender
from agegender.artifact import (
    CALIBRATION_IMAGES_FILE,
    GRAPH_FILE,
    INFO_FILE,
    INT8_GRAPH_FILE,
    TRAINING_IMAGES_FILE,
    WEIGHTS_FILE,
    Calibration,
    ModelInfo,
)
from agegender.errors import InputError
from agegender.model.network import FaceNetwork, build_network

STATE_FORMAT_VERSION = 1
STATE_TENSORS_FILE = "state.safetensors"
STATE_FILE = "state.json"


def save_model(
    folder: Path,
    network: FaceNetwork,
    calibration: Calibration,
    training_images: npt.NDArray[np.uint64],
    calibration_images: npt.NDArray[np.uint64],
    split_hash: str,
    config: dict[str, Any],
    metrics: dict[str, float],
) -> ModelInfo:
    """Write a model folder, with model.json, which makes it valid, last.

    Args:
        folder: created if needed; an older model in it is invalidated first.
        network: with the weights to save.
        calibration: for model.json and the graph.
        training_images: uint64[N], first 8 bytes of the content hash of each image that the weights were trained on.
        calibration_images: uint64[M], the same for the calibration images.
        split_hash: of the split it was trained on.
        config: the resolved config of the run.
        metrics: of the last epoch on the validation part.

    Returns:
        The content of model.json.
    """
    from agegender.model.export import export_graph  # needs onnx, which a training without Ray does not

    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO_FILE).unlink(missing_ok=True)
    (folder / INT8_GRAPH_FILE).unlink(missing_ok=True)
    stored = {name: value.half() if _is_matrix(value) else value for name, value in network.state_dict().items()}
    save_file(_plain(stored), folder / WEIGHTS_FILE)
    export_graph(network, calibration, folder / GRAPH_FILE)
    np.union1d(training_images, calibration_images).astype("<u8").tofile(folder / TRAINING_IMAGES_FILE)
    np.setdiff1d(calibration_images, training_images).astype("<u8").tofile(folder / CALIBRATION_IMAGES_FILE)
    written = (WEIGHTS_FILE, GRAPH_FILE, TRAINING_IMAGES_FILE, CALIBRATION_IMAGES_FILE)
    files = {name: _sha256(folder / name) for name in written}
    info = ModelInfo(
        model_id=files[WEIGHTS_FILE][:12],
        network=network.config,
        calibration=calibration,
        split_hash=split_hash,
        config=config,
        metrics=metrics,
        files=files,
        created_by=f"agegender {agegender.__version__}",
    )
    save_info(folder, info)
    return info


def save_info(folder: Path, info: ModelInfo) -> None:
    """Write the model.json of a model folder, atomically."""
    _write_atomically(folder / INFO_FILE, info.model_dump_json(indent=2))


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Round filters and matrices in place to the float16 that ``save_model`` stores; changes ages by about 1/400 year."""
    for value in network.state_dict().values():
        if _is_matrix(value):
            value.copy_(value.half())


def _is_matrix(value: Tensor) -> bool:
    return value.ndim >= 2 and value.is_floating_point()


def load_network(folder: Path) -> tuple[FaceNetwork, ModelInfo]:
    """The network of a model folder, on the CPU and in eval mode.

    Does not check hashes: ``scoring.load.open_model`` does.

    Raises:
        InputError: model.json is missing, or the weights are missing, damaged or of another network.
    """
    try:
        info = ModelInfo.model_validate_json((folder / INFO_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(
            f"{folder / INFO_FILE}: not a trained model ({error}); give the model/ folder that `agegender train` wrote"
        ) from error
    network = build_network(info.network)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (SafetensorError, RuntimeError, OSError) as error:
        first = " ".join(str(error).split())[:200]
        raise InputError(
            f"{folder / WEIGHTS_FILE}: not the weights of this release's {info.network.backbone} network ({first} ...); "
            f"written by {info.created_by}: copy the model folder again, or retrain"
        ) from error
    return network.eval(), info


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's state by parameter name, so that it does not depend on the parameter order."""

    tensors: dict[str, Tensor]
    """``PARAMETER/SLOT``, e.g. ``age_head.bias/exp_avg``."""

    groups: list[dict[str, Any]]
    """Hyper-parameters of each group; ``params`` are names."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that a killed run needs to end with the same result."""

    epoch: int
    """Current epoch, from 0."""

    step: int
    """Optimizer steps since the start of the run."""

    network: dict[str, Tensor]
    """``state_dict`` of the network."""

    ema: dict[str, Tensor]
    """``state_dict`` of the averaged network; empty: no averaging."""

    optimizer: OptimizerState
    config: dict[str, Any]
    """The resolved config, JSON-able."""

    split_hash: str
    schedule: dict[str, Any] = field(default_factory=dict)
    """``state_dict`` of the learning-rate schedule, JSON-able."""

    random: dict[str, Tensor] = field(default_factory=dict)
    """Name of a generator -> ``get_state()``, uint8[K]."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry of metrics per finished epoch, JSON-able."""

    sums: dict[str, float] = field(default_factory=dict)
    """Metric sums of the unfinished epoch."""


def optimizer_state(optimizer: torch.optim.Optimizer, network: nn.Module) -> OptimizerState:
    """The optimizer's state by the network's parameter names."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    tensors = {
        f"{names[id(parameter)]}/{slot}": torch.as_tensor(value)
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
    }
    groups = [
        {
            **{key: value for key, value in group.items() if key != "param_names"},
            "params": [names[id(p)] for p in params],
        }
        for group in optimizer.param_groups
        for params in (group["params"],)
    ]
    return OptimizerState(tensors, groups)


def restore_optimizer(optimizer: torch.optim.Optimizer, network: nn.Module, state: OptimizerState) -> None:
    """Load a state into a new optimizer of the same network, in place.

    Raises:
        InputError: the parameter groups differ from the state's.
    """
    current = optimizer_state(optimizer, network).groups
    if [group["params"] for group in current] != [group["params"] for group in state.groups]:
        raise InputError(
            "training state: its optimizer has other parameters than this network; "
            "resume with the original config, or train into another --output"
        )
    index = {name: i for i, name in enumerate(name for group in state.groups for name in group["params"])}
    parameters = dict(network.named_parameters())
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.tensors.items():
        name, _, slot = key.rpartition("/")
        tensor = value.clone()
        if value.shape == parameters[name].shape:
            # same memory format as the parameter (channels_last), or each step would be slower
            tensor = torch.empty_like(parameters[name], dtype=value.dtype, requires_grad=False).copy_(value)
        slots.setdefault(index[name], {})[slot] = tensor
    groups = [{**group, "params": [index[name] for name in group["params"]]} for group in state.groups]
    optimizer.load_state_dict({"state": slots, "param_groups": groups})


def save_training_state(folder: Path, state: TrainingState) -> None:
    """Write ``state.safetensors`` and then ``state.json`` with its hash; replaces an older state."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        "network": state.network,
        "ema": state.ema,
        "optimizer": state.optimizer.tensors,
        "random": state.random,
    }
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    _replace(folder / STATE_TENSORS_FILE, lambda path: save_file(_plain(tensors), path))
    content = {
        "format_version": STATE_FORMAT_VERSION,
        "created_by": f"agegender {agegender.__version__}",
        "tensors_sha256": _sha256(folder / STATE_TENSORS_FILE),
        "optimizer_groups": state.optimizer.groups,
        **{name: getattr(state, name) for name in _PLAIN_FIELDS},
    }
    _write_atomically(folder / STATE_FILE, json.dumps(content, indent=1))


_PLAIN_FIELDS = ("epoch", "step", "config", "split_hash", "schedule", "history", "sums")


def load_training_state(folder: Path, split_hash: str | None = None) -> TrainingState:
    """Read what ``save_training_state`` wrote, tensors on the CPU.

    Args:
        folder: with the two files.
        split_hash: expected split; None: any.

    Raises:
        InputError: missing, damaged, of an unsupported format version, or of another split.
    """
    path = folder / STATE_FILE
    try:
        content = json.loads(path.read_bytes())
        version = content["format_version"]
        if version != STATE_FORMAT_VERSION:
            raise InputError(
                f"{path}: format version {version}, this release reads {STATE_FORMAT_VERSION}; "
                "resume with the release that wrote it, or train into another --output"
            )
        if split_hash is not None and content["split_hash"] != split_hash:
            raise InputError(
                f"{path}: is of split {content['split_hash'][:12]}, this run's is {split_hash[:12]}: images, labels, "
                "seed or fractions changed; restore them to resume, or train into another --output"
            )
        if _sha256(folder / STATE_TENSORS_FILE) != content["tensors_sha256"]:
            raise InputError(
                f"{folder / STATE_TENSORS_FILE}: damaged (SHA-256 differs from the one in {STATE_FILE}); {_HOW_TO_RECOVER}"
            )
        tensors = load_file(folder / STATE_TENSORS_FILE)
        plain = {name: content[name] for name in _PLAIN_FIELDS}
        groups = content["optimizer_groups"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as a training state ({error!r}); {_HOW_TO_RECOVER}") from error
    return TrainingState(
        network=_part(tensors, "network"),
        ema=_part(tensors, "ema"),
        optimizer=OptimizerState(_part(tensors, "optimizer"), groups),
        random=_part(tensors, "random"),
        **plain,
    )


_HOW_TO_RECOVER = "delete it to start again, or resume from an older checkpoint"


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as safetensors needs them: on the CPU, contiguous (not channels_last), not sharing memory."""
    return {
        name: value.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    _replace(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    partial = path.with_name(f"_{path.name}.partial")
    write(partial)
    partial.replace(path)
