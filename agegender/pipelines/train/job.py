"""What the driver of a training run and its workers say to each other."""

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agegender.artifact import NetworkConfig
from agegender.config import TrainConfig
from agegender.data.faces import FaceSearch
from agegender.errors import AgegenderError
from agegender.schema import CONTRACT_VERSION
from agegender.storage import files


@dataclass(frozen=True)
class TrainJob:
    """Everything that a worker needs; the same for all of them."""

    config: TrainConfig
    """Resolved; ``output`` is absolute."""

    network: NetworkConfig
    search: FaceSearch | None
    """How the labelled face of a photograph is found; None: images are face crops."""

    units: list[str]
    """Unit tables of the listing."""

    split_hash: str
    threads: int
    """Of one worker."""

    resume_from: str | None
    """Folder of the newest checkpoint of an earlier process, where Ray does not know it."""

    init: str | None
    """Model folder whose weights are the first ones."""

    monitor: Any
    """Handle of a ``Monitor``."""

    teachers: tuple[str, ...] = ()
    """Model folders to learn from beside the labels."""

    def work(self, *names: str) -> str:
        """An address in the run's working folder."""
        return files.join(self.config.output, WORK_FOLDER, *names)

    @property
    def split_uri(self) -> str:
        """Where the split is."""
        return files.join(self.config.output, SPLIT_FILE)

    @property
    def cache_path(self) -> Path:
        """Where the decoded images of this run are on each node."""
        folder = self.config.cache_dir or f"{tempfile.gettempdir()}/agegender-images-{os.getuid()}"
        said = (self.config.output, self.split_hash, self.network.image_size_px, CONTRACT_VERSION)
        return Path(folder) / f"{hashlib.sha256(repr(said).encode()).hexdigest()[:20]}.npy"


WORK_FOLDER = "_work"
SPLIT_FILE = "split.parquet"
METRICS_FILE = "metrics.jsonl"
MODEL_FOLDER = "model"
TENSORBOARD_FOLDER = "tensorboard"
EXAMPLES_FILE = "examples.parquet"
SUMMARY_FILE = "training.json"


@dataclass(frozen=True)
class Start:
    """Where a group of workers began to train."""

    step: int
    images: int
    """Training images used before it, over all epochs."""

    workers: int


@dataclass
class MonitorState:
    """Where training is."""

    images: int = 0
    """Training images used since the beginning of the run, over all epochs."""

    figures: dict[str, str] = field(default_factory=dict)
    """Shown beside it."""

    starts: list[Start] = field(default_factory=list)
    """Of each group of workers that began to train, the first of this attempt first."""

    error: AgegenderError | None = None
    """Why the workers gave up; trying again would not help."""


class Monitor:
    """An actor that keeps the last word of rank 0 for whoever draws it."""

    def __init__(self) -> None:
        self._state = MonitorState()

    def post(self, images: int, figures: dict[str, str]) -> None:
        """Say how far it is."""
        self._state.images, self._state.figures = images, figures

    def begin(self, start: Start) -> None:
        """Say that a group of workers trains from here on."""
        self._state.starts.append(start)

    def fail(self, error: AgegenderError) -> None:
        """Say why it ends; the first reason is kept."""
        self._state.error = self._state.error or error

    def read(self) -> MonitorState:
        """The last word."""
        return self._state


def start_monitor() -> Any:  # Ray's actor handles have no static type
    """A monitor on the driver's node, which outlives the workers that training loses."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Monitor).options(num_cpus=0, scheduling_strategy=here).remote()
