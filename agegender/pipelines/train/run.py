"""Train the network on a labelled source, on Ray Train: resumable to the step, the same for any number of workers.

source -> listing -> facts -> split.parquet -> [decoded images -> steps -> checkpoint] on each worker -> model/, report.html

A run that is started again skips the steps that are done. Ray Train restarts lost workers from the newest checkpoint. A new
driver searches the checkpoints of all earlier attempts itself, because Ray does not write its index of them atomically.
"""

import importlib.util
import json
import logging
import time
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from agegender.artifact import INFO_FILE, NetworkConfig, image_keys
from agegender.data.cache import GIGABYTE, cache_size_bytes
from agegender.data.face_searches import FaceSearches
from agegender.errors import ConfigError, InputError, train_extra_missing
from agegender.options import LABELS, OUTPUT
from agegender.pipelines.runtime.detector import check_framing, labelled_face_searches, search_identity
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.pipelines.runtime.placement import Placement
from agegender.pipelines.runtime.run_record import DONE, claim_output, failure_recorded, finish_record, read_record
from agegender.pipelines.runtime.session import cluster_address, own_errors, ray_session
from agegender.pipelines.source.inputs import check_inputs
from agegender.pipelines.train.initial import seen_before
from agegender.pipelines.train.job import TrainJob, start_monitor
from agegender.pipelines.train.split import SplitImages, split_images
from agegender.reports.training import training_page
from agegender.scoring.load import weight_training_images
from agegender.storage import files, tables
from agegender.training_config import TrainConfig

logger = logging.getLogger(__name__)

ConfigT = TypeVar("ConfigT", bound=TrainConfig)

TRAIN_PACKAGES = ("onnx", "safetensors", "tensorboard", "torch", "torchvision")
"""What the extra ``train`` brings beside Ray's own; checked before any image is read."""


def run_train(config: TrainConfig) -> dict[str, Any]:
    """Train into OUTPUT, or resume an earlier run of the same command.

    Returns:
        The summary: addresses of the model and the report, images per part, metrics of the last epoch.

    Raises:
        ConfigError: OUTPUT holds another run, settings contradict each other, or torch is not installed.
        InputError: no labelled image or too few, or ``init`` is not a usable model.
        ResourceError: storage, disk or cluster failed; the same command resumes.
    """
    started_s = time.monotonic()
    claim = claim_training(config, "train")
    if claim.result is not None:
        return claim.result
    config = claim.config
    with failure_recorded(config.output, "train"):
        with ray_session(config.address, config.num_cpus), own_errors():
            config, split, teachers = prepare(config, claim.searches)
            seen = _seen_by_init(config, split)
            if not files.exists(_model_info_uri(config)):
                _train(config, claim.searches, split, teachers)
        result = _result(config, split, seen, time.monotonic() - started_s)
        _write_report(config, split, result)
        finish_record(config.output, "train", config, claim.identity, result)
    files.delete_folder(OutputLayout(config.output).work())
    return result


@dataclass(frozen=True)
class Claim(Generic[ConfigT]):
    """An OUTPUT that is claimed for a run."""

    config: ConfigT
    """``output`` is absolute."""

    searches: FaceSearches
    identity: dict[str, Any]
    result: dict[str, Any] | None
    """Of a run that is already finished."""


def claim_training(config: ConfigT, job: str) -> Claim[ConfigT]:
    """Check what can be checked without reading an image, and claim OUTPUT.

    Args:
        config: of the job.
        job: train or pack.

    Raises:
        ConfigError: OUTPUT holds another run, settings contradict each other, or torch is not installed.
        InputError: the input or the face detector cannot be used.
    """
    missing = [name for name in TRAIN_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise train_extra_missing("training", ", ".join(missing))
    config = config.model_copy(update={"output": files.absolute(config.output)})
    if config.init is not None and config.weights is not None:
        raise ConfigError(
            f"--init {config.init} and --weights {config.weights} both set the initial weights: leave one of them out"
        )
    is_new = read_record(config.output, job) is None
    config = config.model_copy(update={"weights": _absolute_weights(config, must_exist=is_new)})
    for model in (*config.teacher, *filter(None, [config.init])):
        model_address(model)  # a name without a model here is said before any image is read
    if is_new:
        check_inputs(config.input)
    searches = labelled_face_searches(config)
    identity = config.identity(OUTPUT, LABELS) | search_identity(searches.search)
    Placement(config.cluster(), config.opened_by_workers()).check()
    earlier = claim_output(config.output, job, config, identity)
    if earlier is not None and earlier["state"] == DONE:
        logger.info("%s: this run is already finished; nothing to do", config.output)
        return Claim(config, searches, identity, dict(earlier["result"]))
    return Claim(config, searches, identity, None)


def _absolute_weights(config: TrainConfig, *, must_exist: bool) -> str | None:
    """``config.weights``, absolute if it is a file, because workers have another working directory.

    Args:
        config: of the job.
        must_exist: whether the file is still to be read; a run that resumes has its weights in a checkpoint.

    Raises:
        InputError: this machine trains, and has no such file.
    """
    if config.weights_file is None:
        return config.weights
    path = files.absolute(config.weights_file)
    if must_exist and cluster_address(config.address) is None and not files.exists(path):
        raise InputError(f"{path}: no such weights file; check --weights")
    return path


def _model_info_uri(config: TrainConfig) -> str:
    return files.join(OutputLayout(config.output).model, INFO_FILE)


def prepare(config: ConfigT, searches: FaceSearches) -> tuple[ConfigT, SplitImages, tuple[str, ...]]:
    """Copy the initial model, split the images, copy and check the teachers and the state to resume from.

    An error here leaves OUTPUT free for a corrected command.

    Args:
        config: of the job.
        searches: how the labelled face of each source's images is found.

    Returns:
        The config with the architecture of ``--init``, the split, and the folders of the teachers.
    """
    resumes, given = files.exists(OutputLayout(config.output).split), config.init
    try:
        config = _with_init_network(config)
        split = split_images(config, searches)
        _copy_state(config.model_copy(update={"init": given}), split)
        return config, split, _copy_teachers(config, split)
    except (ConfigError, InputError):
        if not resumes:
            files.delete_folder(OutputLayout(config.output).work())
            files.delete(OutputLayout(config.output).split)
            files.delete(OutputLayout(config.output).record("train"))
        raise


def _copy_state(config: TrainConfig, split: SplitImages) -> None:
    if config.resume_from is not None and not files.exists(_model_info_uri(config)):
        from agegender.pipelines.train.resume import copy_state  # imports torch

        copy_state(config.resume_from, OutputLayout(config.output).work("given_state"), config, split.hash)


def _with_init_network(config: ConfigT) -> ConfigT:
    """The config with the architecture of ``--init``, which is copied to where all workers can read it."""
    if config.init is None:
        return config
    copied = OutputLayout(config.output).work("init")
    if not files.exists(files.join(copied, INFO_FILE)):
        files.upload_folder(localize_model(model_address(config.init)).folder, copied, last=INFO_FILE)
    info = localize_model(copied).info
    check_framing(info, config.init)
    network = info.network.model_dump()
    # training images include a margin around what the trained network takes
    network |= {name: info.config[name] for name in ("image_size_px", "crop_fraction") if name in info.config}
    changed = {name: value for name, value in network.items() if getattr(config, name) != value}
    if changed:
        logger.info("settings from --init %s: %s", config.init, ", ".join(f"{k} {v}" for k, v in changed.items()))
    return config.model_copy(update={**network, "init": copied})


def _copy_teachers(config: TrainConfig, split: SplitImages) -> tuple[str, ...]:
    """Copy the teachers to where all workers can read them; returns the folders.

    Raises:
        InputError: a teacher has no age distribution, or was trained on images of this run's val or test part.
    """
    copied = []
    for number, teacher in enumerate(config.teacher):
        folder = OutputLayout(config.output).work("teachers", str(number))
        if not files.exists(files.join(folder, INFO_FILE)):
            files.upload_folder(localize_model(model_address(teacher)).folder, folder, last=INFO_FILE)
        model = localize_model(folder)
        info = model.info
        check_framing(info, teacher)
        if info.network.age_head == "scalar":
            raise InputError(f"--teacher {teacher}: has a scalar age head; give a model with --age-head distribution")
        # Without its calibration images: soft targets are uncalibrated.
        counts = _count_seen(split, weight_training_images(model.folder))
        if any(counts.values()):
            raise InputError(
                f"--teacher {teacher}: was trained on {counts['val']} images of this run's val part and {counts['test']} of "
                "test, so that metrics would be optimistic (data leakage). Train it with the same --seed and with a "
                "--val-fraction and a --test-fraction that are not smaller"
            )
        copied.append(folder)
    return tuple(copied)


def _count_seen(split: SplitImages, known: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> dict[str, int]:
    """How many images of val and test are among the training images of another model."""
    parts = np.array(split.table["part"].to_pylist())
    seen = np.isin(image_keys(split.table["content_hash"].to_pylist()), known)
    return {part: int(seen[parts == part].sum()) for part in ("val", "test")}


def _seen_by_init(config: TrainConfig, split: SplitImages) -> dict[str, int]:
    """How many images of val and test the model of ``--init`` or ``--weights`` was trained on."""
    if config.init is None and config.weights_file is None:
        return {}
    counts = _count_seen(split, seen_before(config.init, config.weights_file))
    if any(counts.values()):
        logger.warning(
            "--%s %s was trained on %d images of val and %d of test: metrics are optimistic (data leakage)",
            *(("weights", config.weights_file) if config.init is None else ("init", config.init)),
            *counts.values(),
        )
    return counts


def _train(config: TrainConfig, searches: FaceSearches, split: SplitImages, teachers: tuple[str, ...]) -> None:
    # Imported late: torch takes seconds, which a wrong command should not wait for.
    from agegender.pipelines.train import fit as train_fit
    from agegender.pipelines.train import resume as train_resume

    train_fit.check_gpus(config)
    given = None if config.resume_from is None else OutputLayout(config.output).work("given_state")
    resume_from, attempt = train_resume.newest_checkpoint(config.output, split.hash, given)
    train_resume.delete_attempts_before(config.output, attempt, resume_from)
    threads = max(1, int(train_fit.reserved_cpus(config)))
    job = training_job(config, searches, split, threads, resume_from, teachers, start_monitor())
    size_gb = cache_size_bytes(split.parts["train"] + split.parts["val"], config.image_size_px) / GIGABYTE
    logger.info("decoded images: %.2f GB on each node, in %s, deleted at the end", size_gb, job.cache_path.parent)
    train_fit.fit(job, attempt, split.parts["train"] * config.epochs)


def training_job(
    config: TrainConfig,
    searches: FaceSearches,
    split: SplitImages,
    threads: int,
    resume_from: str | None = None,
    teachers: tuple[str, ...] = (),
    monitor: Any = None,
) -> TrainJob:
    """What each worker needs; the arguments are those of ``TrainJob``."""
    return TrainJob(
        config=config,
        network=NetworkConfig(**{name: getattr(config, name) for name in NetworkConfig.model_fields}),
        searches=searches,
        units=split.units,
        split_hash=split.hash,
        threads=threads,
        resume_from=resume_from,
        init=config.init,
        monitor=monitor,
        teachers=teachers,
    )


def _history(config: TrainConfig) -> list[dict[str, Any]]:
    lines = files.read_bytes(OutputLayout(config.output).history).decode().splitlines()
    return [json.loads(line) for line in lines]


def _result(config: TrainConfig, split: SplitImages, seen_before: dict[str, int], elapsed_s: float) -> dict[str, Any]:
    info = localize_model(OutputLayout(config.output).model).info
    history = _history(config)
    last = history[-1]
    used_s = sum(row["seconds"] for row in history)
    return {
        "model": OutputLayout(config.output).model,
        "model_id": info.model_id,
        "report": OutputLayout(config.output).report,
        "images": split.listed,
        "ignored_files": split.ignored,
        **{f"{part}_images": count for part, count in split.parts.items()},
        **{f"{part}_images_seen_by_init": count for part, count in seen_before.items()},
        "epochs": len(history),
        "age_mae_years": last["age_mae_years"],
        "age_mae_to_range_years": last["age_mae_to_range_years"],
        "gender_accuracy": last["gender_accuracy"],
        "precision": info.config["precision"],
        "images_per_s": sum(row["images_per_s"] * row["seconds"] for row in history) / used_s,
        "training_s": used_s,
        "elapsed_s": elapsed_s,
    }


def _write_report(config: TrainConfig, split: SplitImages, result: dict[str, Any]) -> None:
    examples_uri = OutputLayout(config.output).examples
    with_images = config.images and files.exists(examples_uri)
    page = training_page(
        result,
        _history(config),
        split.table,
        config.model_dump(mode="json"),
        tables.read_table(examples_uri).to_pylist() if with_images else None,
    )
    files.write_bytes(OutputLayout(config.output).report, page.encode())
