"""Score every image of a source: units of a listing that grows meanwhile, in a pool of actors, into parts of Parquet.

GrowingListing -> [UnitScorer in an actor: fetch, decode, score, stage] -> Ledger -> part-*.parquet
"""

import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

from agegender import __version__
from agegender.artifact import ModelInfo
from agegender.config import PredictConfig
from agegender.data.faces import FaceSearch
from agegender.errors import AccountingError, ConfigError, InputError
from agegender.options import OUTPUT
from agegender.pipelines.predict.lease import Lease
from agegender.pipelines.predict.ledger import Ledger, UnitCounts
from agegender.pipelines.predict.rescore import Rescoring
from agegender.pipelines.predict.worker import COMMAND, Notes, score_units, unit_scorer
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.detector import check_framing, face_search, search_identity
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.pipelines.runtime.placement import check_storage
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.run_record import DONE, claim_output, finish_record, reopen_record
from agegender.pipelines.runtime.session import own_errors, ray_session
from agegender.pipelines.source.listing import list_source
from agegender.pipelines.source.streaming_listing import GrowingListing
from agegender.schema import CONTRACT_VERSION, Status
from agegender.scoring.load import open_model
from agegender.storage import files

logger = logging.getLogger(__name__)

DRY_RUN_IMAGES = 256


def run_predict(config: PredictConfig) -> dict[str, Any]:
    """Score a source into OUTPUT, or go on where an earlier run of the same command was stopped.

    Returns:
        The closing summary: images, rows, images by status, images/s, where the output is.

    Raises:
        ConfigError: OUTPUT holds another run, or another driver works at it, or the options do not fit the model; nothing
            was changed.
        InputError: no image, no usable model, or more bad files than ``max_bad_fraction`` (the output is kept).
        ResourceError: storage or cluster failed; what was scored stays.
    """
    config = config.model_copy(update={"output": files.absolute(config.output), "model": model_address(config.model)})
    info = _checked_model(config)
    search = face_search(config, config.max_faces)
    if config.dry_run:
        return _dry_run(config, search)
    identity = _identity(config, info, search)
    check_storage(config)
    earlier = claim_output(config.output, "predict", config, identity)
    with Lease(config.output) as lease:
        return _predict(config, search, identity, earlier, _metadata(info, identity), lease)


def _predict(
    config: PredictConfig,
    search: FaceSearch | None,
    identity: dict[str, Any],
    earlier: dict[str, Any] | None,
    metadata: dict[str, str],
    lease: Lease,
) -> dict[str, Any]:
    was_done = earlier is not None and earlier["state"] == DONE
    started_s = time.monotonic()
    ledger = Ledger(config.output, metadata, lease.check)
    again = Rescoring(config.output, config.unit_images, config.rescore_changed, config.retry_status)
    before, notes = ledger.totals.images, Notes()
    with _listing(config, again) as listing:
        pending = _pending(listing, ledger)
        first = next((unit for unit in pending if unit is not None), None)
        if first is not None:
            if was_done:
                reopen_record(config.output, "predict", config, identity)
            _score(config, search, itertools.chain([first], pending), ledger, notes, listing)
    # While the rows of an earlier collection wait, nobody knows which of the changed files are among them.
    changed = {} if again.images and not again.collects else _changed(config, listing)
    if earlier is not None and was_done and first is None and not again.images:
        return _nothing_new(config, identity, earlier["result"], changed, ledger)
    ledger.publish_rest()
    rescored = again.images
    if rescored:
        if was_done:
            reopen_record(config.output, "predict", config, identity)
        _score_again(config, search, again, Ledger(again.output, metadata, lease.check), notes)
        ledger = Ledger(config.output, metadata, lease.check)
    result = _summary(config, listing, ledger, before, rescored, time.monotonic() - started_s) | changed
    result |= {"workers_lost": notes.workers or None, "units_tried_again": notes.units or None}
    result["precision"] = ", ".join(sorted(notes.precisions)) or None
    finish_record(config.output, "predict", config, identity, result)
    _check_bad_fraction(config, ledger.totals)
    return result


def _listing(config: PredictConfig, again: Rescoring) -> GrowingListing:
    work_uri = files.join(config.output, "_work", "listing")
    keep = tuple(config.keep_columns)
    return GrowingListing(config.source(), work_uri, keep, config.limit, again if again.collects else None)


def _nothing_new(
    config: PredictConfig, identity: dict[str, Any], before: dict[str, Any], changed: dict[str, Any], ledger: Ledger
) -> dict[str, Any]:
    """What a finished run says when it is run again; nothing is written but what is news."""
    logger.info("%s: this run is finished, and its source holds nothing new; nothing was done", config.output)
    result = {key: value for key, value in before.items() if not key.startswith("changed_")} | changed
    if result != before:
        finish_record(config.output, "predict", config, identity, result)
    _check_bad_fraction(config, ledger.totals)
    return result


def _changed(config: PredictConfig, listing: GrowingListing) -> dict[str, Any]:
    """Files that were replaced under their names, for the closing summary."""
    if not listing.changed:
        return {}
    logger.warning(
        "%s: %d files are not those that were listed, e.g. %s: their rows are of the earlier ones. --rescore-changed scores them anew",
        config.output,
        listing.changed,
        listing.changed_examples[0],
    )
    return {"changed_files": listing.changed, "changed_examples": listing.changed_examples}


def _pending(listing: GrowingListing, ledger: Ledger) -> Iterator[str | None]:
    """Addresses of the units that are still to be scored; None each time that none is listed yet."""
    for number in listing.numbers():
        if number is None:
            yield None
        elif not ledger.is_done(number):
            yield listing.address(number)


def _score(
    config: PredictConfig,
    search: FaceSearch | None,
    units: Iterator[str | None],
    ledger: Ledger,
    notes: Notes,
    listing: GrowingListing | None = None,
) -> None:
    with (
        ray_session(config.address, config.num_cpus),
        own_errors(),
        ledger,
        Progress(None, "images", "predict" if listing else "predict again") as progress,
        contextlib.closing(score_units(config, search, units, notes)) as scored,
    ):
        progress.start_at(ledger.totals.images)
        _show_open(ledger, listing)
        for unit, counts in scored:
            ledger.add(unit, counts)
            _show_open(ledger, listing)
            if listing is not None and listing.ended:
                progress.expect(listing.counts.images)
            progress.update(counts.images, bad=bad_images(ledger.totals))


def _show_open(ledger: Ledger, listing: GrowingListing | None) -> None:
    if listing is not None:
        metrics.show("agegender_images_open", listing.counts.images - ledger.totals.images, COMMAND)
        metrics.show("agegender_units_open", listing.units - ledger.units, COMMAND)


def _score_again(
    config: PredictConfig, search: FaceSearch | None, again: Rescoring, ledger: Ledger, notes: Notes
) -> None:
    """Score the images that are to be scored again, and put their rows in place of the old ones."""
    inner = config.model_copy(update={"output": again.output, "save_crops": False})
    units = [again.address(number) for number in range(again.units) if not ledger.is_done(number)]
    if units:
        _score(inner, search, iter(units), ledger, notes)
    ledger.publish_rest()
    again.take_over()


def _checked_model(config: PredictConfig) -> ModelInfo:
    info = open_model(localize_model(config.model))
    check_framing(info, config.model)
    if config.use_gpu and config.precision == "float32":
        raise ConfigError("--precision float32: GPUs score in bfloat16. Leave it out, or leave --use-gpu out")
    if config.use_gpu and config.dry_run:
        raise ConfigError("--dry-run times this machine's CPU: leave --use-gpu out of it")
    if config.age_distribution and info.network.age_head == "scalar":
        raise ConfigError(
            f"--age-distribution: {config.model} estimates one number and no distribution (age head 'scalar'). "
            "Leave the flag out, or train with --age-head distribution"
        )
    return info


def _identity(config: PredictConfig, info: ModelInfo, search: FaceSearch | None) -> dict[str, Any]:
    """Everything that, were it different, would give other rows."""
    identity = config.identity(OUTPUT) | search_identity(search)
    if config.use_gpu:
        identity["precision"] = "bfloat16"
    return identity | {"model_files": info.files, "framing": info.framing, "contract_version": CONTRACT_VERSION}


def _metadata(info: ModelInfo, identity: dict[str, Any]) -> dict[str, str]:
    config_hash = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return {
        "agegender.version": __version__,
        "agegender.contract_version": str(CONTRACT_VERSION),
        "agegender.model_id": info.model_id,
        "agegender.model_hash": info.files["weights.safetensors"],
        "agegender.config_hash": config_hash,
    }


def bad_images(counts: UnitCounts) -> int:
    """Images that count towards ``--max-bad-fraction``."""
    return sum(n for status, n in (counts.by_status or {}).items() if Status(status).is_bad)


def _summary(
    config: PredictConfig, listing: GrowingListing, ledger: Ledger, images_before: int, rescored: int, elapsed_s: float
) -> dict[str, Any]:
    totals = ledger.totals
    scored = totals.images - images_before + rescored
    accounted = sum((totals.by_status or {}).values())
    if accounted != listing.counts.images or totals.images != listing.counts.images:
        raise AccountingError(
            f"{config.output}: {listing.counts.images} images listed, {totals.images} in the output, "
            f"{accounted} of them with a status ({totals.by_status}). "
            "This is a defect: keep the folder and report it"
        )
    return {
        "images": totals.images,
        "faces": (totals.by_status or {}).get(Status.OK.value, 0) + totals.rows - totals.images,
        "by_status": {status.value: n for status in Status if (n := (totals.by_status or {}).get(status.value, 0))},
        "rows": totals.rows,
        "repeated": listing.counts.repeated,
        "ignored_files": sum(listing.counts.ignored.values()),
        "parts": ledger.parts,
        "images_scored_now": scored,
        "images_rescored": rescored,
        "seconds": round(elapsed_s, 1),
        "images_per_s": round(scored / max(elapsed_s, 1e-9), 1),
        "output": config.output,
    }


def _check_bad_fraction(config: PredictConfig, counts: UnitCounts) -> None:
    bad = bad_images(counts)
    if bad > config.max_bad_fraction * counts.images:
        raise InputError(
            f"{bad} of {counts.images} files are bad ({bad / counts.images:.1%}), more than --max-bad-fraction "
            f"{config.max_bad_fraction:.1%}. The output in {config.output} is whole: its status and error columns say why"
        )


def _dry_run(config: PredictConfig, search: FaceSearch | None) -> dict[str, Any]:
    """List everything, score a sample in this process, write nothing."""
    images = units = 0
    sample = None
    for table in list_source(config.source(), config.keep_columns, limit=config.limit):
        sample = table.slice(0, DRY_RUN_IMAGES) if sample is None else sample
        images, units = images + table.num_rows, units + 1
    if sample is None:
        raise InputError(
            f"no images in {', '.join(config.input)}. Point --input at a folder, a manifest, Parquet or tar"
        )
    scorer = unit_scorer(config, search)
    scorer.score_unit(sample.slice(0, 1))  # the first call pays for caches that later ones find warm
    started_s = time.monotonic()
    rows = scorer.score_unit(sample)
    per_image_s = (time.monotonic() - started_s) / sample.num_rows
    return {
        "images": images,
        "units_of_work": units,
        "sampled_images": sample.num_rows,
        "sampled_by_status": {
            s: rows.column("status").to_pylist().count(s) for s in set(rows.column("status").to_pylist())
        },
        "images_per_s_per_worker": round(1 / per_image_s, 1),
        "estimated_cpu_minutes": round(images * per_image_s / 60, 2),
        "written": "nothing: this was --dry-run",
    }
