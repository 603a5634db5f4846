"""Scoring processes of a predict run: each unit is scored and written to storage, and its counts are returned. No Ray.

Separate from ``run``, so that the processes import only what they need.
"""

import re
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from agegender.config import PredictConfig
from agegender.data.faces import FaceSearch
from agegender.data.images import Pixels, encode_jpeg
from agegender.errors import AccountingError
from agegender.option_groups import ImageLimits
from agegender.options import ScoringPrecision, ScoringPrecisionOrAuto
from agegender.pipelines.engine.actor_pool import RunStats, UnitPool
from agegender.pipelines.engine.poison import Task
from agegender.pipelines.engine.unit_scorer import Submit, UnitScorer
from agegender.pipelines.predict.ledger import UnitCounts, stage_unit
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.runtime.stage_clock import StageClock
from agegender.pipelines.source.fetch import read_unit
from agegender.storage import files
from agegender.storage.retries import take_retries

COMMAND = "predict"


@dataclass
class PredictStats(RunStats):
    """Statistics of a predict run; updated while it runs."""

    precisions: set[ScoringPrecision] = field(default_factory=set)
    """Precisions of the network; several if the nodes have different CPUs."""


@dataclass(frozen=True)
class ScoringJob:
    """Settings of a scoring process; the same for all processes of a run."""

    output: str
    model: str
    """Address of the trained model."""
    limits: ImageLimits
    search: FaceSearch | None
    """Finds faces; None: images are face crops."""
    threads: int
    batch_size: int
    precision: ScoringPrecisionOrAuto
    age_distribution: bool
    abstain_above_years: float | None
    save_crops: bool

    @classmethod
    def of(cls, config: PredictConfig, search: FaceSearch | None) -> "ScoringJob":
        """Create it from the config of the run."""
        return cls(
            output=config.output,
            model=config.model,
            limits=config.limits(),
            search=search,
            threads=config.threads_per_worker,
            batch_size=config.batch_size,
            precision=config.precision,
            age_distribution=config.age_distribution,
            abstain_above_years=config.abstain_above,
            save_crops=config.save_crops,
        )

    def scorer(self, submit: Submit | None = None, clock: StageClock | None = None) -> UnitScorer:
        """Load the model; with ``submit`` batches are scored by another process. The clock measures the stages."""
        return UnitScorer(
            localize_model(self.model),
            self.limits,
            self.threads,
            self.batch_size,
            precision=self.precision,
            age_distribution=self.age_distribution,
            abstain_above_years=self.abstain_above_years,
            search=self.search,
            submit=submit,
            clock=clock,
        )


def score_units(
    pool: UnitPool, units: Iterator[str | None], stats: PredictStats
) -> Generator[tuple[str, UnitCounts], None, None]:
    """Score units in a pool of ``ScoringWorker`` and stage their rows.

    Args:
        pool: of scoring processes.
        units: addresses of listings; None: none available yet.
        stats: updated while scoring.

    Yields:
        (unit, its counts) as they are staged.

    Raises:
        AccountingError: the result of a unit has another number of images than its listing.
        ResourceError: storage does not answer, or processes die and no image is the cause.
    """
    with closing(pool.results(units)) as results:
        for unit, done in results:
            _record_metrics(done)
            stats.precisions.add(done.precision)
            yield unit, done.counts


def images_of(unit: str) -> int:
    """Number of images of a unit."""
    return int(read_unit(unit).num_rows)


@dataclass(frozen=True)
class ScoredUnit:
    """Result of a scored unit."""

    counts: UnitCounts
    seconds: dict[str, float]
    """Time of its worker since its last result, by activity."""

    isolated: int
    """Images that were not decoded because they kill their process."""

    storage_retries: int
    """Storage requests that were retried."""

    precision: ScoringPrecision
    """Precision of the network."""


def _record_metrics(done: ScoredUnit) -> None:
    for status, images in (done.counts.by_status or {}).items():
        metrics.count("agegender_images_total", images, COMMAND, status=status)
    for activity, seconds in done.seconds.items():
        metrics.count("agegender_worker_seconds_total", seconds, COMMAND, activity=activity)
    metrics.count("agegender_units_total", 1, COMMAND)
    metrics.count("agegender_isolated_images_total", done.isolated, COMMAND)
    metrics.count("agegender_storage_retries_total", done.storage_retries + take_retries(), COMMAND)


class ScoringWorker:
    """One process of the pool: the model loaded once, units in, counts out; it writes the rows to storage.

    Args:
        job: of the run.
        make_submit: factory of the ``Submit`` that sends batches to GPUs; None: they are scored in this process.
    """

    def __init__(self, job: ScoringJob, make_submit: Callable[[], Submit] | None = None) -> None:
        self._job, self._make_submit = job, make_submit
        self._clock, self._idle_since_s = StageClock(), time.perf_counter()

    @cached_property
    def _scorer(self) -> UnitScorer:
        """Loaded by the first task, which raises its errors; an error in the constructor would count as a death."""
        with self._clock.stage("load"):
            return self._job.scorer(self._make_submit() if self._make_submit else None, self._clock)

    def do(self, task: Task) -> ScoredUnit | None:
        """Score and stage a whole unit, or only probe whether the process survives a piece of one."""
        self._clock.add("wait", time.perf_counter() - self._idle_since_s)
        with self._clock.rest("other"):
            counts = self._do(task)
        self._idle_since_s = time.perf_counter()
        if counts is None:
            return None
        return ScoredUnit(counts, self._clock.take(), len(task.poison_rows), take_retries(), self._scorer.precision)

    def _do(self, task: Task) -> UnitCounts | None:
        scorer = self._scorer
        with self._clock.stage("fetch"):
            listing = read_unit(task.unit)
        if task.rows is not None:
            first, end = task.rows
            poison_rows = {row - first for row in task.poison_rows}
            scorer.score_unit(listing.slice(first, end - first), poison_rows=poison_rows)
            return None
        layout = OutputLayout(self._job.output)
        keep_crop = _CropFolder(layout.crops(task.unit), listing) if self._job.save_crops else None
        table = scorer.score_unit(listing, keep_crop=keep_crop, poison_rows=task.poison_rows)
        with self._clock.stage("write"):
            counts = stage_unit(self._job.output, task.unit, table)
        if counts.images != listing.num_rows:
            raise AccountingError(
                f"{task.unit} lists {listing.num_rows} images, the result has {counts.images}. "
                "This is a defect: keep the folder and report it"
            )
        return counts


class _CropFolder:
    """Writes ``ROW-FACE-NAME.jpg`` to a unit's folder: unique for each face, and overwritten by a retry."""

    def __init__(self, folder: str, listing: pa.Table) -> None:
        self._folder = folder
        self._uris = listing.column("uri")

    def __call__(self, image: int, face: int, crop: Pixels) -> None:
        name = re.sub(r"[^\w.-]+", "_", str(self._uris[image]).rsplit("/", 1)[-1])[-60:]
        files.write_bytes(files.join(self._folder, f"{image:06d}-{face:02d}-{name}.jpg"), encode_jpeg(crop))
