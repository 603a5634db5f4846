"""Score every image of a source: units of a streaming listing, scored in a pool of processes, into Parquet parts.

StreamingListing -> [UnitScorer in a process: fetch, decode, find, score, stage] -> Ledger -> part-*.parquet
"""

import itertools
import logging
import time
from collections.abc import Iterator
from typing import Any

from agegender.config import PredictConfig
from agegender.errors import AccountingError, InputError
from agegender.pipelines.engine import local
from agegender.pipelines.predict.launch import may_be_local
from agegender.pipelines.predict.lease import Lease
from agegender.pipelines.predict.ledger import Ledger
from agegender.pipelines.predict.rescore import RescoreCollector
from agegender.pipelines.predict.scoring import Run, check_bad_fraction, check_run, counted, score_into
from agegender.pipelines.predict.worker import PredictStats, ScoringJob
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.pipelines.runtime.model_cache import model_address
from agegender.pipelines.runtime.run_record import (
    DONE,
    claim_output,
    discard_run,
    failure_recorded,
    finish_record,
    read_record,
    reopen_record,
)
from agegender.pipelines.source.inputs import check_inputs
from agegender.pipelines.source.listing import list_source
from agegender.pipelines.source.streaming_listing import StreamingListing
from agegender.storage import files

logger = logging.getLogger(__name__)

DRY_RUN_IMAGES = 256


def run_predict(config: PredictConfig) -> dict[str, Any]:
    """Score a source into OUTPUT, or resume an earlier run of the same command.

    A small source is scored by processes of this machine, without a cluster (``engine.local``).

    Returns:
        The closing summary: images, rows, images by status, images/s, address of the output.

    Raises:
        ConfigError: OUTPUT holds another run, or another driver is running it, or the options do not match the model;
            nothing was changed.
        InputError: no image, no usable model, or more bad files than ``max_bad_fraction`` (the output is kept).
        ResourceError: storage or cluster failed; scored units are kept.
    """
    config = config.model_copy(update={"output": files.absolute(config.output), "model": model_address(config.model)})
    if read_record(config.output, "predict") is None:
        check_inputs(config.input)
    run = check_run(config)
    if config.dry_run:
        return _dry_run(run)
    run.placement.check()
    earlier = claim_output(config.output, "predict", config, run.identity)
    with Lease(config.output) as lease, failure_recorded(config.output, "predict", lease.check):
        try:
            return _predict(run, earlier, lease)
        except InputError:
            nothing_listed = not files.exists(OutputLayout(config.output).listing)
            if nothing_listed and not files.peek(
                config.output
            ):  # else the parts of an earlier run would lose their record
                discard_run(config.output, "predict")
            raise


def _predict(run: Run, earlier: dict[str, Any] | None, lease: Lease) -> dict[str, Any]:
    config = run.config
    was_done = earlier is not None and earlier["state"] == DONE
    started_s = time.monotonic()
    ledger = Ledger(config.output, run.metadata, lease.check)
    before, stats = ledger.totals.images, PredictStats()
    with _listing(config) as listing:
        pending = _pending(listing, ledger)
        first = next((unit for unit in pending if unit is not None), None)
        if first is not None:
            if was_done:
                reopen_record(config.output, "predict", config, run.identity)
            locally = may_be_local(run.config) and listing.ends_within(local.MAX_IMAGES + before)
            units = itertools.chain([first], pending)
            score_into(run, units, ledger, stats, locally=locally, listing=listing)
    changed = _changed(config, listing)
    if earlier is not None and was_done and first is None:
        return _nothing_new(run, earlier["result"], changed, ledger)
    ledger.publish_rest()
    result = _summary(config, listing, ledger, before, time.monotonic() - started_s) | changed
    result |= {"workers_lost": stats.workers_lost or None, "units_tried_again": stats.unit_retries or None}
    result["precision"] = ", ".join(sorted(stats.precisions)) or None
    finish_record(config.output, "predict", config, run.identity, result)
    check_bad_fraction(config, ledger.totals)
    return result


def _listing(config: PredictConfig) -> StreamingListing:
    folder = OutputLayout(config.output).listing
    return StreamingListing(config.source(), folder, tuple(config.keep_columns), config.limit)


def _nothing_new(run: Run, before: dict[str, Any], changed: dict[str, Any], ledger: Ledger) -> dict[str, Any]:
    """The result of a finished run that is run again; written only if it differs."""
    output = run.config.output
    logger.info("%s: this run is finished, and its source holds nothing new; nothing was done", output)
    result = {key: value for key, value in before.items() if not key.startswith("changed_")} | changed
    if result != before:
        finish_record(output, "predict", run.config, run.identity, result)
    check_bad_fraction(run.config, ledger.totals)
    return result


def _changed(config: PredictConfig, listing: StreamingListing) -> dict[str, Any]:
    """Files that were replaced under the same name, for the closing summary."""
    if left := RescoreCollector(config.output).images:
        # Some changed files may be among the pending images, so the count is known only after their commit.
        logger.warning(
            "%s: %d images are pending for rescore. `agegender rescore OUTPUT` scores them", config.output, left
        )
        return {}
    if not listing.changed:
        return {}
    logger.warning(
        "%s: %d files have changed since they were listed, e.g. %s: their rows are from the earlier versions. "
        "`agegender rescore OUTPUT --changed` scores them again",
        config.output,
        listing.changed,
        listing.changed_examples[0],
    )
    return {"changed_files": listing.changed, "changed_examples": listing.changed_examples}


def _pending(listing: StreamingListing, ledger: Ledger) -> Iterator[str | None]:
    """Addresses of the units to score; None if the next is not listed yet."""
    for number in listing.numbers():
        if number is None:
            yield None
        elif not ledger.is_done(number):
            yield listing.address(number)


def _summary(
    config: PredictConfig, listing: StreamingListing, ledger: Ledger, images_before: int, elapsed_s: float
) -> dict[str, Any]:
    totals = ledger.totals
    scored = totals.images - images_before
    accounted = sum((totals.by_status or {}).values())
    if accounted != listing.counts.images or totals.images != listing.counts.images:
        raise AccountingError(
            f"{config.output}: {listing.counts.images} images listed, {totals.images} in the output, "
            f"{accounted} of them with a status ({totals.by_status}). "
            "This is a defect: keep the folder and report it"
        )
    return counted(totals) | {
        "repeated": listing.counts.repeated,
        "ignored_files": dict(listing.counts.ignored),
        "parts": ledger.parts,
        "images_scored_now": scored,
        "seconds": round(elapsed_s, 1),
        "images_per_s": round(scored / max(elapsed_s, 1e-9), 1),
        "output": config.output,
    }


def _dry_run(run: Run) -> dict[str, Any]:
    """List everything, score a sample in this process, write nothing."""
    config = run.config
    images = units = 0
    sample = None
    for table in list_source(config.source(), config.keep_columns, limit=config.limit):
        sample = table.slice(0, DRY_RUN_IMAGES) if sample is None else sample
        images, units = images + table.num_rows, units + 1
    if sample is None:
        raise InputError(
            f"no images in {', '.join(config.input)}. Point --input at a folder, a manifest, Parquet or tar"
        )
    scorer = ScoringJob.of(config, run.search).scorer()
    scorer.score_unit(sample.slice(0, 1))  # the first call fills caches that later ones use
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
