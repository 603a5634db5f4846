"""Measure a trained model on labelled images.

Listing -> [UnitScorer in an actor: fetch, decode, score] -> one table per unit -> Gathered -> metrics, slices, report
"""

import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agegender import __version__
from agegender.artifact import ModelInfo
from agegender.config import EvaluateConfig
from agegender.data.corruptions import CORRUPTIONS
from agegender.data.face_searches import FaceSearches
from agegender.errors import InputError
from agegender.evaluation import calibration, slices
from agegender.evaluation.findings import findings
from agegender.evaluation.metrics import MetricSums, error_histogram
from agegender.evaluation.selective import selective_prediction
from agegender.options import LABELS, OUTPUT, REPORT
from agegender.pipelines.evaluate.examples import show_examples
from agegender.pipelines.evaluate.gather import Gathered, Keys, content_keys, gather, observations_of
from agegender.pipelines.evaluate.worker import score_units
from agegender.pipelines.runtime.detector import check_framing, labelled_face_searches, search_identity
from agegender.pipelines.runtime.layout import OutputLayout, listing_index
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.pipelines.runtime.placement import Placement
from agegender.pipelines.runtime.run_record import (
    DONE,
    claim_output,
    discard_run,
    failure_recorded,
    finish_record,
    read_record,
)
from agegender.pipelines.runtime.session import own_errors, ray_session
from agegender.pipelines.source.inputs import check_inputs
from agegender.pipelines.source.listing import Listing
from agegender.pipelines.source.streaming_listing import drain
from agegender.reports.evaluation import evaluation_page
from agegender.schema import CONTRACT_VERSION
from agegender.scoring.load import check_precision, training_images
from agegender.storage import files, tables
from agegender.storage.answers import ObjectAnswer

logger = logging.getLogger(__name__)


def run_evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Score labelled images and write metrics.json, slices.parquet, predictions.parquet and report.html.

    The same command resumes an interrupted run.

    Returns:
        The content of metrics.json.

    Raises:
        ConfigError: OUTPUT holds another run; nothing was changed.
        InputError: no usable model or split, no image, no labelled image, or none in the split's part.
        ResourceError: storage or cluster failed; scored units are kept.
    """
    config = _with_absolute_addresses(config)
    sources = config.sources()
    if read_record(config.output, "evaluate") is None:
        check_inputs(config.input)
    model = localize_model(config.model)
    info, training_keys = model.info, training_images(model.folder)
    part = read_part(config.split, config.part) if config.split else None
    check_framing(info, config.model)
    check_precision(info, config.precision, config.model)
    searches = labelled_face_searches(config)
    identity = _identity(config, info, part) | search_identity(searches.search)
    placement = Placement(config.cluster(), config.opened_by_workers())
    placement.check()
    earlier = claim_output(config.output, "evaluate", config, identity)
    if earlier is not None and earlier["state"] == DONE:
        logger.info("%s: this run is finished; nothing was done", config.output)
        return dict(earlier["result"])
    with failure_recorded(config.output, "evaluate"):
        try:
            listing = drain(config, OutputLayout(config.output).listing)
            _check_labels(config, listing)
            with ray_session(config.address, config.num_cpus), own_errors():
                score_units(config, searches, listing, part, placement)
            gathered = gather(
                config.output, listing, training_keys, _metadata(info), [source.name for source in sources]
            )
            _check_evaluated(config, gathered)
        except InputError:
            _discard(config.output)  # there is no result: a corrected command may use the same OUTPUT
            raise
        metrics = _write_results(config, info, searches, listing, gathered, part)
        finish_record(config.output, "evaluate", config, identity, metrics)
    _discard_work(config.output)
    return metrics


def read_part(split_uri: str, part: str) -> Keys:
    """Read the content keys of one part of a training run's split.

    Args:
        split_uri: split.parquet, local or s3://.
        part: ``train``, ``val`` or ``test``.

    Returns:
        uint64[N], sorted, unique.

    Raises:
        InputError: no such file, not a split, or an empty part.
    """
    try:
        table = tables.read_table(split_uri, ["content_hash", "part"])
    except ObjectAnswer as error:
        raise InputError(
            f"--split {split_uri}: {error}. Give the split.parquet in the OUTPUT of `agegender train`"
        ) from error
    hashes = table.filter(pc.equal(table.column("part"), part)).column("content_hash")
    if not len(hashes):
        parts = sorted(pc.unique(table.column("part")).to_pylist())
        raise InputError(f"--split {split_uri}: no image in part {part}; it holds {', '.join(parts) or 'nothing'}")
    return np.unique(content_keys(hashes))


def _write_results(
    config: EvaluateConfig,
    info: ModelInfo,
    searches: FaceSearches,
    listing: Listing,
    gathered: Gathered,
    part: Keys | None,
) -> dict[str, Any]:
    layout = OutputLayout(config.output)
    rows = slices.slice_rows(
        gathered.observations, config.bootstrap_rounds, config.seed, gathered.races, gathered.sources
    )
    metrics = _metrics(config, info, listing, gathered, part)
    metrics["findings"] = findings(metrics, rows)
    tables.write_table(layout.path("slices.parquet"), pa.Table.from_pylist(rows, slices.SCHEMA))
    page = evaluation_page(
        metrics,
        rows,
        ages=(gathered.observations.age_true, gathered.observations.age_pred),
        error_histogram=error_histogram(gathered.observations),
        confusion=slices.confusion(gathered.observations),
        reliability=calibration.reliability(gathered.observations),
        examples=show_examples(config, searches, listing, gathered) if config.images else None,
    )
    files.write_bytes(layout.report, page.encode())
    files.write_json(layout.path("metrics.json"), metrics)
    return metrics


def _metrics(
    config: EvaluateConfig, info: ModelInfo, listing: Listing, gathered: Gathered, part: Keys | None
) -> dict[str, Any]:
    observations = gathered.observations
    sums = MetricSums.of(observations)
    return {
        "n": sums.images,
        "n_age": sums.n_age,
        "n_age_range": sums.n_age_range,
        "n_gender": sums.n_gender,
        **slices.bounded_metrics(observations, config.bootstrap_rounds, config.seed),
        "interval_coverage_promised": info.calibration.interval_coverage,
        "gender_calibration_error": calibration.gender_calibration_error(observations),
        "interval_by_age_group": {
            by: calibration.interval_by_group(observations, by) for by in ("estimated", "true", "estimated_of_ranges")
        },
        "by_source": slices.by_source(observations, config.bootstrap_rounds, config.seed, gathered.sources)
        if len(gathered.sources) > 1
        else None,
        "age_assurance": slices.age_assurance(observations),
        "selective_prediction": selective_prediction(observations),
        "robustness": _robustness(config, listing) if config.robustness else None,
        "seen_in_training": {
            "images": gathered.seen_in_training,
            "share": round(gathered.seen_in_training / sums.images, 4),
        },
        "images": {
            "listed": listing.images,
            "repeated": listing.repeated,
            "ignored_files": listing.ignored,
            "in_part": None if part is None else sum(gathered.by_status.values()),
            "by_status": gathered.by_status,
            "by_status_and_source": gathered.status_by_source if len(gathered.sources) > 1 else None,
            "unlabelled": gathered.unlabelled,
        },
        "split": None if part is None else {"file": config.split, "part": config.part, "images": int(part.size)},
        "input": config.input,
        "model": {"address": config.model, "model_id": info.model_id, "backbone": info.network.backbone},
        "bounds": f"95 %, {config.bootstrap_rounds} bootstrap resamples of the images, seed {config.seed}",
        "agegender_version": __version__,
    }


def _robustness(config: EvaluateConfig, listing: Listing) -> dict[str, Any]:
    """The metrics on each corruption of the images."""
    measured = {}
    for name, corruption in CORRUPTIONS.items():
        observations = observations_of(config.output, listing, name)
        measured[name] = {
            "what": corruption.what,
            "n": len(observations),
            **slices.bounded_metrics(observations, config.bootstrap_rounds, config.seed),
            "gender_calibration_error": calibration.gender_calibration_error(observations),
        }
    return measured


def _identity(config: EvaluateConfig, info: ModelInfo, part: Keys | None) -> dict[str, Any]:
    """All settings that change the metrics or the report."""
    chosen = None if part is None else int(np.bitwise_xor.reduce(part))
    derived = {"split_images": chosen, "contract_version": CONTRACT_VERSION}
    return config.identity(OUTPUT, LABELS, REPORT) | info.identity(config.precision) | derived


def _metadata(info: ModelInfo) -> dict[str, str]:
    return {
        "agegender.version": __version__,
        "agegender.contract_version": str(CONTRACT_VERSION),
        "agegender.model_id": info.model_id,
    }


def _with_absolute_addresses(config: EvaluateConfig) -> EvaluateConfig:
    placed = {"output": files.absolute(config.output), "model": model_address(config.model)}
    split = None if config.split is None else files.absolute(config.split)
    return config.model_copy(update={**placed, "split": split})


def _check_labels(config: EvaluateConfig, listing: Listing) -> None:
    """Refuse a source without any label, before anything is scored."""
    problems: set[str] = set()
    for unit in listing.units:
        listed = tables.read_table(unit, ["age_low_years", "gender", "label_problem"])
        if any(listed.column(name).null_count < listed.num_rows for name in ("age_low_years", "gender")):
            return
        problems.update(pc.unique(listed.column("label_problem").drop_null()).to_pylist()[:3])
    reason = f" (for example: {sorted(problems)[0]})" if problems else ""
    raise InputError(
        f"none of the {listing.images} images in {', '.join(config.input)} has a label{reason}, so there is nothing to "
        "measure. Name them AGE_GENDER_RACE_STAMP.jpg, or give a manifest with --age-column and --gender-column"
    )


def _check_evaluated(config: EvaluateConfig, gathered: Gathered) -> None:
    if config.split and not gathered.by_status:
        raise InputError(
            f"none of the images in {', '.join(config.input)} is in part {config.part} of {config.split}: their contents "
            "differ. Give the --input that the model was trained on, or the split of that training run"
        )
    if not len(gathered.observations):
        raise InputError(
            f"no image in {', '.join(config.input)} is both labelled and readable ({gathered.by_status}). "
            "Look at them with `agegender eda`"
        )


def _discard(output: str) -> None:
    files.delete(OutputLayout(output).predictions)
    discard_run(output, "evaluate")


def _discard_work(output: str) -> None:
    """Delete the work files; the listing's index first, so that a partly deleted listing does not look complete."""
    layout = OutputLayout(output)
    files.delete(listing_index(layout.listing))
    files.delete_folder(layout.work())
