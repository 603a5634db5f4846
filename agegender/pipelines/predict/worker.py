"""The units of a predict run in their actors: each is scored there and put on storage; its counts and figures come back.

Apart from ``predict``, so that the actors import no more than they need.
"""

import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import ray

from agegender.config import PredictConfig
from agegender.data.faces import FaceSearch
from agegender.data.images import Pixels, encode_jpeg
from agegender.errors import AccountingError
from agegender.options import Precision
from agegender.pipelines.engine.actor_pool import Losses, UnitPool
from agegender.pipelines.engine.gpu_actors import DecodersWanted, GpuScorer, start_gpus
from agegender.pipelines.engine.poison import Task
from agegender.pipelines.engine.unit_scorer import UnitScorer
from agegender.pipelines.predict.ledger import UnitCounts, stage_unit
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.placement import placement, pool_shape, usable_cpus
from agegender.pipelines.runtime.session import cluster_address, let_fatal_signals_end_this_process
from agegender.pipelines.runtime.stage_clock import StageClock
from agegender.pipelines.source.listing import read_unit, unit_name
from agegender.storage import files
from agegender.storage.retries import take_retries

COMMAND = "predict"


@dataclass
class Notes(Losses):
    """What a run notes beside its rows; filled while it runs."""

    precisions: set[Precision] = field(default_factory=set)
    """In which its networks computed; several where its nodes have several types of CPU."""


def unit_scorer(
    config: PredictConfig, search: FaceSearch | None, gpus: list[Any] | None = None, clock: StageClock | None = None
) -> UnitScorer:
    """The model at work, as the config says, here or on GPUs; the clock is told where its time goes."""
    return UnitScorer(
        config.model,
        config.limits(),
        config.threads_per_worker,
        config.batch_size,
        precision=config.precision,
        age_distribution=config.age_distribution,
        abstain_above_years=config.abstain_above,
        search=search,
        submit=GpuScorer(gpus).submit if gpus else None,
        clock=clock,
    )


def score_units(
    config: PredictConfig, search: FaceSearch | None, units: Iterator[str | None], notes: Notes
) -> Generator[tuple[str, UnitCounts], None, None]:
    """Score units in a pool of actors and stage their rows; needs a running Ray.

    Args:
        config: of the run.
        search: how faces are found; None: images are face crops.
        units: addresses of listings; None: none at the moment.
        notes: of what happens meanwhile.

    Yields:
        (unit, its counts) as they are staged.

    Raises:
        AccountingError: a unit gave another number of images than it lists.
        ResourceError: storage does not answer, or processes end and no image is the reason.
    """
    size, cpus = _pool_size(config)
    # A process that died is replaced by the pool, which must know of it; Ray would restart it unseen.
    remote = ray.remote(num_cpus=cpus, max_restarts=0, max_task_retries=0)(_ScoringActor)
    remote = remote.options(**{"scheduling_strategy": "SPREAD"} | placement(config))
    gpus = start_gpus(config) if config.use_gpu else []
    wanted = DecodersWanted(gpus, size) if gpus else size
    pool = UnitPool(lambda: remote.remote(config, search, gpus), wanted, lambda unit: read_unit(unit).num_rows, notes)
    try:
        with closing(pool.results(units)) as results:
            for unit, done in results:
                _tell(done)
                notes.precisions.add(done.precision)
                yield unit, done.counts
    finally:
        for gpu in gpus:
            ray.kill(gpu)


@dataclass(frozen=True)
class ScoredUnit:
    """What comes back of a unit."""

    counts: UnitCounts
    seconds: dict[str, float]
    """Time of its worker since the last unit came back, by what it did with it."""

    isolated: int
    """Images that were left undecoded because they end their process."""

    storage_retries: int
    """Requests that were made again meanwhile."""

    precision: Precision
    """In which the network computed."""


def _tell(done: ScoredUnit) -> None:
    for status, images in (done.counts.by_status or {}).items():
        metrics.count("agegender_images_total", images, COMMAND, status=status)
    for activity, seconds in done.seconds.items():
        metrics.count("agegender_worker_seconds_total", seconds, COMMAND, activity=activity)
    metrics.count("agegender_units_total", 1, COMMAND)
    metrics.count("agegender_isolated_images_total", done.isolated, COMMAND)
    metrics.count("agegender_storage_retries_total", done.storage_retries + take_retries(), COMMAND)


def _pool_size(config: PredictConfig) -> tuple[Callable[[], int], float]:
    """How many actors there may be, asked again as nodes come and go, and the CPUs that each reserves.

    On a Ray of our own all that were asked for run, if need be on less than a CPU each. On a cluster each has its CPUs, and
    those that find no room are what an autoscaler starts nodes for. Nodes cost money: without ``num_workers`` no more is
    asked for than there is, and one worker where there is nothing yet.
    """
    wanted, threads = config.num_workers, config.threads_per_worker
    if cluster_address(config.address) is None:
        actors, cpus = pool_shape(wanted, threads, usable_cpus(config))
        return lambda: actors, cpus
    reserved = min(float(threads), max(usable_cpus(config)))
    return lambda: wanted or max(1, sum(int(cpus // reserved) for cpus in usable_cpus(config))), reserved


class _ScoringActor:
    """One process of the pool: the model loaded once, units in, counts out; the rows go to storage from here."""

    def __init__(self, config: PredictConfig, search: FaceSearch | None, gpus: list[Any]) -> None:
        let_fatal_signals_end_this_process()
        self._config, self._search, self._gpus = config, search, gpus
        self._clock, self._idle_since_s = StageClock(), time.perf_counter()

    @cached_property
    def _scorer(self) -> UnitScorer:
        """Loaded with the first task: what goes wrong here is that task's error, where a constructor's would be a death."""
        with self._clock.stage("load"):
            return unit_scorer(self._config, self._search, self._gpus, self._clock)

    def node(self) -> str:
        """The node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def do(self, task: Task) -> ScoredUnit | None:
        """Score and stage a whole unit, or only try whether the process survives a piece of one."""
        self._clock.add("wait", time.perf_counter() - self._idle_since_s)
        with self._clock.rest("other"):
            counts = self._do(task)
        self._idle_since_s = time.perf_counter()
        if counts is None:
            return None
        return ScoredUnit(counts, self._clock.take(), len(task.deadly), take_retries(), self._scorer.precision)

    def _do(self, task: Task) -> UnitCounts | None:
        scorer = self._scorer
        with self._clock.stage("fetch"):
            listing = read_unit(task.unit)
        if task.rows is not None:
            first, end = task.rows
            deadly = {row - first for row in task.deadly}
            scorer.score_unit(listing.slice(first, end - first), deadly=deadly)
            return None
        crops = _CropFolder(self._config.output, task.unit, listing) if self._config.save_crops else None
        table = scorer.score_unit(listing, keep_crop=crops, deadly=task.deadly)
        with self._clock.stage("write"):
            counts = stage_unit(self._config.output, task.unit, table)
        if counts.images != listing.num_rows:
            raise AccountingError(
                f"{task.unit} lists {listing.num_rows} images, {counts.images} came out. "
                "This is a defect: keep the folder and report it"
            )
        return counts


class _CropFolder:
    """``_crops/UNIT/ROW-FACE-NAME.jpg`` under OUTPUT: names that no two faces share and a second try writes again."""

    def __init__(self, output: str, unit: str, listing: pa.Table) -> None:
        self._folder = files.join(output, "_crops", unit_name(unit))
        self._uris = listing.column("uri")

    def __call__(self, image: int, face: int, crop: Pixels) -> None:
        name = re.sub(r"[^\w.-]+", "_", str(self._uris[image]).rsplit("/", 1)[-1])[-60:]
        files.write_bytes(files.join(self._folder, f"{image:06d}-{face:02d}-{name}.jpg"), encode_jpeg(crop))
