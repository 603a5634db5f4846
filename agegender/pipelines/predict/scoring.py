"""Shared by ``predict`` and ``rescore``: checks before anything is written, and scoring of units with a pool."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agegender import __version__
from agegender.artifact import ModelInfo
from agegender.config import PredictConfig
from agegender.data.faces import FaceSearch
from agegender.errors import ConfigError, InputError
from agegender.options import OUTPUT
from agegender.pipelines.engine import local
from agegender.pipelines.engine.actor_pool import UnitPool
from agegender.pipelines.predict.ledger import Ledger, UnitCounts
from agegender.pipelines.predict.worker import (
    COMMAND,
    PredictStats,
    ScoringJob,
    ScoringWorker,
    images_of,
    score_units,
)
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.detector import check_framing, face_search, search_identity
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.runtime.placement import Placement
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.session import own_errors, ray_session
from agegender.pipelines.source.streaming_listing import StreamingListing
from agegender.schema import CONTRACT_VERSION, LISTING, Status, prediction_schema
from agegender.scoring.load import check_precision


@dataclass(frozen=True)
class Run:
    """A predict run with a checked config."""

    config: PredictConfig
    """With absolute addresses."""

    search: FaceSearch | None
    identity: dict[str, Any]
    """All settings that change rows."""

    metadata: dict[str, str]
    """Of every part."""

    @property
    def placement(self) -> Placement:
        """Where its work may be scheduled."""
        return Placement(self.config.cluster(), self.config.opened_by_workers())


def check_run(config: PredictConfig) -> Run:
    """Check a config, its model and its detector.

    Args:
        config: with absolute addresses.

    Raises:
        ConfigError: the options do not match the model or each other.
        InputError: no usable model or detector.
        ResourceError: storage does not answer, or the detector cannot be downloaded.
    """
    info = localize_model(config.model).info
    check_framing(info, config.model)
    if config.use_gpu and config.precision != "auto":
        raise ConfigError(
            f"--precision {config.precision}: GPUs score in bfloat16. Leave it out, or leave --use-gpu out"
        )
    check_precision(info, config.precision, config.model)
    if config.use_gpu and config.dry_run:
        raise ConfigError("--dry-run times this machine's CPU: leave --use-gpu out of it")
    if config.age_distribution and info.network.age_head == "scalar":
        raise ConfigError(
            f"--age-distribution: {config.model} estimates one number and no distribution (age head 'scalar'). "
            "Leave the flag out, or train with --age-head distribution"
        )
    taken = {*LISTING.names, *prediction_schema(age_distribution=config.age_distribution).names}
    if repeated := [name for name in config.keep_columns if name in taken]:
        raise ConfigError(
            f"--keep-columns {repeated[0]}: the listing or the predictions have a column of this name. Rename it in the manifest"
        )
    search = face_search(config, config.max_faces)
    identity = _identity(config, info, search)
    return Run(config, search, identity, _metadata(info, identity))


def _identity(config: PredictConfig, info: ModelInfo, search: FaceSearch | None) -> dict[str, Any]:
    identity = config.identity(OUTPUT) | search_identity(search)
    if config.use_gpu:
        identity["precision"] = "bfloat16"
    return (
        identity
        | info.identity(identity["precision"])
        | {"framing": info.framing, "contract_version": CONTRACT_VERSION}
    )


def _metadata(info: ModelInfo, identity: dict[str, Any]) -> dict[str, str]:
    config_hash = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return {
        "agegender.version": __version__,
        "agegender.contract_version": str(CONTRACT_VERSION),
        "agegender.model_id": info.model_id,
        "agegender.model_hash": info.files["weights.safetensors"],
        "agegender.config_hash": config_hash,
    }


def score_into(
    run: Run,
    units: Iterator[str | None],
    ledger: Ledger,
    stats: PredictStats,
    *,
    locally: bool,
    label: str = COMMAND,
    listing: StreamingListing | None = None,
) -> None:
    """Score units and add them to the ledger.

    Args:
        run: of the config.
        units: addresses of listings; None: none available yet.
        ledger: of OUTPUT.
        stats: updated while scoring.
        locally: use processes of this machine; else Ray.
        label: of the progress bar.
        listing: gives the total once it is complete.
    """
    pool = _local_pool(run, stats) if locally else _ray_pool(run, stats)
    with (
        pool as workers,
        ledger,
        Progress(None, "images", label) as progress,
        contextlib.closing(score_units(workers, units, stats)) as scored,
    ):
        progress.start_at(ledger.totals.images)
        _set_open(ledger, listing)
        for unit, counts in scored:
            ledger.add(unit, counts)
            _set_open(ledger, listing)
            if listing is not None and listing.ended:
                progress.expect(listing.counts.images)
            progress.update(counts.images, bad=bad_images(ledger.totals))


@contextlib.contextmanager
def _local_pool(run: Run, stats: PredictStats) -> Iterator[UnitPool]:
    job, cpus = ScoringJob.of(run.config, run.search), local.usable_cpus(run.config.num_cpus)
    size = max(1, cpus // job.threads)
    workers = local.LocalProcesses(ScoringWorker, (job,), job.threads)
    yield UnitPool(workers, lambda: size, images_of, stats, COMMAND)


@contextlib.contextmanager
def _ray_pool(run: Run, stats: PredictStats) -> Iterator[UnitPool]:
    from agegender.pipelines.engine import gpu_actors, ray_actors  # Ray's import takes a second

    config = run.config
    with ray_session(config.address, config.num_cpus), own_errors():
        size, cpus = ray_actors.pool_size(config.num_workers, config.threads_per_worker, run.placement)
        gpus = gpu_actors.start_gpus(config.model, config.batch_size, run.placement) if config.use_gpu else []
        target_size = gpu_actors.DecoderTarget(gpus, size) if gpus else size
        submit = gpu_actors.GpuSubmit(gpus) if gpus else None
        job = ScoringJob.of(config, run.search)
        workers = ray_actors.RayActors(ScoringWorker, (job, submit), cpus, run.placement)
        try:
            yield UnitPool(workers, target_size, images_of, stats, COMMAND)
        finally:
            gpu_actors.stop_gpus(gpus)


def _set_open(ledger: Ledger, listing: StreamingListing | None) -> None:
    if listing is not None:
        metrics.set_gauge("agegender_images_open", listing.counts.images - ledger.totals.images, COMMAND)
        metrics.set_gauge("agegender_units_open", listing.units - ledger.units, COMMAND)


def bad_images(counts: UnitCounts) -> int:
    """Number of images that count for ``--max-bad-fraction``."""
    return sum(n for status, n in (counts.by_status or {}).items() if Status(status).is_bad)


def check_bad_fraction(config: PredictConfig, counts: UnitCounts) -> None:
    """Refuse a finished run with too many bad files; its output is kept.

    Raises:
        InputError: more than ``max_bad_fraction``.
    """
    bad = bad_images(counts)
    if bad > config.max_bad_fraction * counts.images:
        raise InputError(
            f"{bad} of {counts.images} files are bad ({bad / counts.images:.1%}), more than --max-bad-fraction "
            f"{config.max_bad_fraction:.1%}. The output in {config.output} is complete: its status and error columns say why"
        )


def counted(totals: UnitCounts) -> dict[str, Any]:
    """The counts of a run, for its summary and record."""
    by_status = totals.by_status or {}
    return {
        "images": totals.images,
        "faces": totals.faces,
        "by_status": {status.value: n for status in Status if (n := by_status.get(status.value, 0))},
        "images_with_warning": totals.images_with_warning,
        "rows": totals.rows,
    }
