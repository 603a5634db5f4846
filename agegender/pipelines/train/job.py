"""What the driver of a training run and its workers exchange: the job description and progress."""

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agegender.artifact import NetworkConfig
from agegender.data.face_searches import FaceSearches
from agegender.errors import AgegenderError
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.schema import CONTRACT_VERSION
from agegender.training_config import TrainConfig


@dataclass(frozen=True)
class TrainJob:
    """Everything that a worker needs; identical on all ranks."""

    config: TrainConfig
    """Resolved; ``output`` is absolute."""

    network: NetworkConfig
    searches: FaceSearches
    """How the labelled face of each source's images is found."""

    units: list[str]
    """Unit tables of the listing."""

    split_hash: str
    threads: int
    """CPU threads of one worker."""

    resume_from: str | None
    """Folder of the newest checkpoint of an earlier driver process, which Ray does not know; None: start from step 0."""

    init: str | None
    """Model folder to initialize the weights from."""

    monitor: Any
    """Actor handle of a ``Monitor``."""

    teachers: tuple[str, ...] = ()
    """Model folders to distill from."""

    @property
    def layout(self) -> OutputLayout:
        """Addresses under OUTPUT."""
        return OutputLayout(self.config.output)

    @property
    def cache_path(self) -> Path:
        """Path of this run's decoded images on each node."""
        given = self.config.cache_dir
        folder = Path(given or f"{tempfile.gettempdir()}/agegender-images-{os.getuid()}").expanduser()
        key = (self.config.output, self.split_hash, self.network.image_size_px, CONTRACT_VERSION)
        return folder / f"{hashlib.sha256(repr(key).encode()).hexdigest()[:20]}.npy"


@dataclass(frozen=True)
class WorkerGroupStart:
    """Where a worker group started to train."""

    step: int
    images: int
    """Training images used before it, over all epochs."""

    workers: int


@dataclass
class MonitorState:
    """Progress of the training run."""

    images: int = 0
    """Training images used since the beginning of the run, over all epochs."""

    metrics: dict[str, str] = field(default_factory=dict)
    """Shown beside the progress bar, already formatted."""

    starts: list[WorkerGroupStart] = field(default_factory=list)
    """One per worker group of this attempt, in order; more than one after a loss or a resize."""

    error: AgegenderError | None = None
    """Why training failed, if a retry cannot help."""


class Monitor:
    """An actor that holds the latest progress of rank 0 for the driver."""

    def __init__(self) -> None:
        self._state = MonitorState()

    def report(self, images: int, metrics: dict[str, str]) -> None:
        """Record the progress."""
        self._state.images, self._state.metrics = images, metrics

    def begin(self, start: WorkerGroupStart) -> None:
        """Record that a worker group started."""
        self._state.starts.append(start)

    def fail(self, error: AgegenderError) -> None:
        """Record why training fails; the first error is kept."""
        self._state.error = self._state.error or error

    def read(self) -> MonitorState:
        """The latest progress."""
        return self._state


def start_monitor() -> Any:  # Ray's actor handles have no static type
    """Start a monitor on the driver's node, so that it survives the loss of a worker's node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Monitor).options(num_cpus=0, scheduling_strategy=here).remote()
