"""Score every image of a source: units of a listing, on Ray Data, into parts of Parquet.

Listing -> [UnitScorer in an actor: fetch, decode, score, stage] -> Ledger -> part-*.parquet
"""

import hashlib
import json
import logging
import re
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray

from agegender import __version__
from agegender.artifact import ModelInfo
from agegender.config import PredictConfig, SourceOptions
from agegender.data.faces import FaceSearch
from agegender.data.images import Pixels, encode_jpeg
from agegender.errors import AccountingError, ConfigError, InputError
from agegender.pipelines.finding import check_framing, face_search, search_identity
from agegender.pipelines.ledger import Ledger, UnitCounts, stage_unit
from agegender.pipelines.models import localize_model, model_address
from agegender.pipelines.progress import Progress
from agegender.pipelines.record import DONE, claim_output, finish_record
from agegender.pipelines.scorer import UnitScorer, pool_shape
from agegender.pipelines.session import node_cpus, own_errors, ray_session
from agegender.pipelines.sources import Listing, list_source, read_unit, unit_dataset, unit_name
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
        ConfigError: OUTPUT holds another run, or the options do not fit the model; nothing was changed.
        InputError: no image, no usable model, or more bad files than ``max_bad_fraction`` (the output is kept).
        ResourceError: storage or cluster failed; what was scored stays.
    """
    config = config.model_copy(update={"output": files.absolute(config.output), "model": model_address(config.model)})
    info = _checked_model(config)
    search = face_search(config, config.max_faces)
    if config.dry_run:
        return _dry_run(config, search)
    identity = _identity(config, info, search)
    earlier = claim_output(config.output, "predict", config, identity)
    if earlier is not None and earlier["state"] == DONE:
        logger.info("%s: this run is finished; nothing was done", config.output)
        return dict(earlier["result"])
    started_s = time.monotonic()
    listing = Listing.create(
        source_of(config), files.join(config.output, "_work", "listing"), config.keep_columns, config.limit
    )
    ledger = Ledger(config.output, listing, _metadata(info, identity))
    before = ledger.totals.images
    if ledger.pending():
        with ray_session(config.address, config.num_cpus), own_errors():
            _score(config, search, listing, ledger)
    ledger.publish_rest()
    result = _summary(config, listing, ledger, before, time.monotonic() - started_s)
    finish_record(config.output, "predict", config, identity, result)
    _check_bad_fraction(config, ledger.totals)
    return result


def source_of(config: PredictConfig) -> SourceOptions:
    """The source alone; labels are nothing that scoring needs."""
    fields = {name: getattr(config, name) for name in SourceOptions.model_fields}
    return SourceOptions(**fields | {"labels": "none"})


def _checked_model(config: PredictConfig) -> ModelInfo:
    info = open_model(localize_model(config.model))
    check_framing(info, config.model)
    if config.age_distribution and info.network.age_head == "scalar":
        raise ConfigError(
            f"--age-distribution: {config.model} estimates one number and no distribution (age head 'scalar'). "
            "Leave the flag out, or train with --age-head distribution"
        )
    return info


def _identity(config: PredictConfig, info: ModelInfo, search: FaceSearch | None) -> dict[str, Any]:
    """Everything that, were it different, would give other rows."""
    named = {"input", "faces", "limit", "keep_columns", "age_distribution", "abstain_above", "batch_size"}
    named |= {"uri_column", "bytes_column", "max_image_pixels", "max_image_bytes", "unit_images"}
    said = config.model_dump(mode="json", include=named)
    said |= search_identity(search)
    return said | {"model_files": info.files, "framing": info.framing, "contract_version": CONTRACT_VERSION}


def _metadata(info: ModelInfo, identity: dict[str, Any]) -> dict[str, str]:
    config_hash = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return {
        "agegender.version": __version__,
        "agegender.contract_version": str(CONTRACT_VERSION),
        "agegender.model_id": info.model_id,
        "agegender.model_hash": info.files["weights.safetensors"],
        "agegender.config_hash": config_hash,
    }


class _ScoringActor:
    """One process of the pool: the model loaded once, units in, counts out; the rows go to storage from here."""

    def __init__(self, config: PredictConfig, search: FaceSearch | None) -> None:
        self._output, self._save_crops = config.output, config.save_crops
        self._scorer = _unit_scorer(config, search)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        unit = str(batch["unit"][0])
        listing = read_unit(unit)
        crops = _CropFolder(self._output, unit, listing) if self._save_crops else None
        counts = stage_unit(self._output, unit, self._scorer.score_unit(listing, keep_crop=crops))
        return {
            "unit": np.array([unit]),
            "images": np.array([counts.images]),
            "rows": np.array([counts.rows]),
            "size_bytes": np.array([counts.size_bytes]),
            "by_status": np.array([json.dumps(counts.by_status)]),
        }


class _CropFolder:
    """``_crops/UNIT/ROW-FACE-NAME.jpg`` under OUTPUT: names that no two faces share and a second try writes again."""

    def __init__(self, output: str, unit: str, listing: pa.Table) -> None:
        self._folder = files.join(output, "_crops", unit_name(unit))
        self._uris = listing.column("uri")

    def __call__(self, image: int, face: int, crop: Pixels) -> None:
        name = re.sub(r"[^\w.-]+", "_", str(self._uris[image]).rsplit("/", 1)[-1])[-60:]
        files.write_bytes(files.join(self._folder, f"{image:06d}-{face:02d}-{name}.jpg"), encode_jpeg(crop))


def _unit_scorer(config: PredictConfig, search: FaceSearch | None) -> UnitScorer:
    return UnitScorer(
        config.model,
        source_of(config),
        config.threads_per_worker,
        config.batch_size,
        age_distribution=config.age_distribution,
        abstain_above_years=config.abstain_above,
        search=search,
    )


def _score(config: PredictConfig, search: FaceSearch | None, listing: Listing, ledger: Ledger) -> None:
    pending = ledger.pending()
    actors, cpus = pool_shape(config.num_workers, config.threads_per_worker, node_cpus())
    counted = unit_dataset(pending).map_batches(
        _ScoringActor,
        batch_size=1,
        fn_constructor_args=(config, search),
        compute=ray.data.ActorPoolStrategy(size=min(actors, len(pending))),
        num_cpus=cpus,
    )
    with Progress(listing.images, "images", "predict") as progress:
        progress.start_at(ledger.totals.images)
        for row in counted.iter_rows():
            counts = UnitCounts(row["images"], row["rows"], row["size_bytes"], json.loads(row["by_status"]))
            ledger.add(row["unit"], counts)
            progress.update(counts.images, bad=bad_images(ledger.totals))


def bad_images(counts: UnitCounts) -> int:
    """Images that count towards ``--max-bad-fraction``."""
    return sum(n for status, n in (counts.by_status or {}).items() if Status(status).is_bad)


def _summary(
    config: PredictConfig, listing: Listing, ledger: Ledger, images_before: int, elapsed_s: float
) -> dict[str, Any]:
    totals = ledger.totals
    accounted = sum((totals.by_status or {}).values())
    if accounted != listing.images or totals.images != listing.images:
        raise AccountingError(
            f"{config.output}: {listing.images} images listed, {accounted} accounted for ({totals.by_status}). "
            "This is a defect: keep the folder and report it"
        )
    return {
        "images": totals.images,
        "faces": (totals.by_status or {}).get(Status.OK.value, 0) + totals.rows - totals.images,
        "by_status": {status.value: n for status in Status if (n := (totals.by_status or {}).get(status.value, 0))},
        "rows": totals.rows,
        "repeated": listing.repeated,
        "ignored_files": sum(listing.ignored.values()),
        "parts": ledger.parts,
        "images_scored_now": totals.images - images_before,
        "seconds": round(elapsed_s, 1),
        "images_per_s": round((totals.images - images_before) / max(elapsed_s, 1e-9), 1),
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
    for table in list_source(source_of(config), config.keep_columns, limit=config.limit):
        sample = table.slice(0, DRY_RUN_IMAGES) if sample is None else sample
        images, units = images + table.num_rows, units + 1
    if sample is None:
        raise InputError(
            f"no images in {', '.join(config.input)}. Point --input at a folder, a manifest, Parquet or tar"
        )
    scorer = _unit_scorer(config, search)
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
