"""Train on a pack, on one device of this process: the loop of ``model.loop``, without Ray, storage or a network."""

import json
import logging
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from agegender.data.pack import INITIAL_FILE, Pack, Pixels, open_pack
from agegender.errors import ConfigError
from agegender.model.checkpoint import STATE_FILE, TrainingState, load_network, load_training_state, save_training_state
from agegender.model.loop import Listener, Ranks, TrainingLoop, TrainingTask, agreed_precision
from agegender.model.network import FaceNetwork, build_network
from agegender.pipelines.train.allocator import keep_freed_memory
from agegender.pipelines.train.resume import check_same_options
from agegender.pipelines.train.samples import samples_of
from agegender.training_config import TrainConfig, TrainPackedConfig

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 10.0

MEMORY_SHARE = 0.4
"""Part of a GPU's free memory that the images may take; the rest is for the network and a batch."""


def run_train_packed(config: TrainPackedConfig) -> dict[str, Any]:
    """Train on a pack into OUTPUT, or resume there.

    Returns:
        The summary: folder of the state, metrics of the last epoch.

    Raises:
        ConfigError: no such device, OUTPUT holds a state of other options, or the loss is not finite.
        InputError: the pack is incomplete or damaged, or OUTPUT holds a state of other images.
    """
    started_s = time.monotonic()
    keep_freed_memory()
    device = _device(config.device)
    pack = open_pack(Path(config.pack))
    training = TrainConfig.model_validate(pack.info.config)
    here = {"num_workers": 1, "min_workers": None}
    here |= {"accumulate": config.accumulate, "checkpoint_interval_steps": config.checkpoint_interval_steps}
    task = TrainingTask(training.model_copy(update=here), pack.info.network, pack.info.split_hash)
    output = Path(config.output)
    state = _newest_state(output, task)
    in_memory = _on_device(pack.pixels, device)
    parts = samples_of(pack.rows, pack.pixels, np.ones(pack.rows.num_rows, np.bool_), training.sources())
    train, val = (replace(part, device_pixels=in_memory) for part in parts)
    loop = TrainingLoop(
        *(task, train, val, device, agreed_precision(task.recipe, device, Ranks())),
        state=state,
        init=None if state is not None else _initial(pack, task),
        teachers=_teachers(pack),
        listener=FolderListener(output),
    )
    logger.info("training on %s in %s, from step %d of %d", device, loop.precision, loop.step, loop.total_steps)
    loop.run()
    last = loop.history[-1]
    return {
        "state": str(output / FolderListener.STATE),
        "epochs": loop.epoch,
        **{name: last[name] for name in ("age_mae_years", "age_mae_to_range_years", "gender_accuracy")},
        "images_per_s": last["images_per_s"],
        "precision": loop.precision,
        "elapsed_s": time.monotonic() - started_s,
    }


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here; give --device cpu")
    return torch.device(wanted)


def _on_device(pixels: Pixels, device: torch.device) -> torch.Tensor | None:
    """The images in the memory of a GPU, if there is enough of it beside the training; else None."""
    if device.type != "cuda":
        return None
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return torch.from_numpy(pixels).to(device) if pixels.nbytes <= MEMORY_SHARE * free_bytes else None


def _initial(pack: Pack, task: TrainingTask) -> FaceNetwork | None:
    if INITIAL_FILE not in pack.info.files:
        return None
    network = build_network(task.network)
    network.load_state_dict(load_file(pack.folder / INITIAL_FILE))
    return network


def _teachers(pack: Pack) -> list[FaceNetwork]:
    return [load_network(pack.folder / teacher)[0] for teacher in pack.info.teachers]


def _newest_state(output: Path, task: TrainingTask) -> TrainingState | None:
    """The state in OUTPUT, of which a kill may have left the new one beside the old."""
    state, new = output / FolderListener.STATE, output / FolderListener.NEW
    if not state.exists() and (new / STATE_FILE).exists():
        new.rename(state)
    if not state.exists():
        return None
    found = load_training_state(state, task.split_hash)
    check_same_options(found, task.config, str(state))
    return found


class FolderListener(Listener):
    """Writes states and metrics into a local folder, and logs the progress.

    Args:
        output: the folder.
    """

    STATE, NEW, OLD = "state", "_new_state", "_old_state"

    def __init__(self, output: Path) -> None:
        self._output, self._logged_s = output, time.monotonic()

    def checkpoint(self, metrics: dict[str, Any], state: TrainingState | None) -> None:  # noqa: ARG002
        """Replace the state; at any moment there is a whole one, as ``STATE`` or as ``NEW``."""
        if state is None:
            return
        kept, new, old = (self._output / name for name in (self.STATE, self.NEW, self.OLD))
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)
        save_training_state(new, state)
        if kept.exists():
            kept.rename(old)
        new.rename(kept)
        shutil.rmtree(old, ignore_errors=True)

    def end_epoch(self, history: list[dict[str, Any]]) -> None:
        """Write ``metrics.jsonl``."""
        partial = self._output / "_metrics.jsonl.partial"
        partial.write_text("".join(f"{json.dumps(row)}\n" for row in history), encoding="utf-8")
        partial.replace(self._output / "metrics.jsonl")
        row = {name: value for name, value in history[-1].items() if isinstance(value, int | float)}
        logger.info("epoch %d: %s", row.pop("epoch"), ", ".join(f"{name} {value:.5g}" for name, value in row.items()))

    def progress(self, loop: TrainingLoop) -> None:
        """Log the step now and then."""
        if time.monotonic() - self._logged_s > LOG_INTERVAL_S:
            self._logged_s = time.monotonic()
            logger.info("step %d of %d, loss %.3f", loop.step, loop.total_steps, loop.loss)
