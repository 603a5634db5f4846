"""Train the network on a labelled source, on Ray Train: resumable to the step, the same for any number of workers.

source -> listing -> facts -> split.parquet -> [decoded images -> steps -> checkpoint] on each worker -> model/, report.html

A run that is started again begins with whatever is not there yet. Ray Train restarts lost workers from the newest
checkpoint; a new driver looks for it itself, in the checkpoints of all earlier attempts, because Ray's own index of them
is not written whole-or-absent.
"""

import importlib.util
import json
import logging
import time
from typing import Any

import numpy as np

from agegender.artifact import INFO_FILE, NetworkConfig, image_keys
from agegender.config import TrainConfig
from agegender.data.cache import GIGABYTE, cache_size_bytes
from agegender.data.faces import FaceSearch
from agegender.errors import ConfigError, InputError, train_extra_missing
from agegender.pipelines.runtime.detector import check_framing, face_search, search_identity
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.pipelines.runtime.placement import check_storage
from agegender.pipelines.runtime.run_record import DONE, claim_output, finish_record, record_uri
from agegender.pipelines.runtime.session import own_errors, ray_session
from agegender.pipelines.train.job import (
    EXAMPLES_FILE,
    METRICS_FILE,
    MODEL_FOLDER,
    SPLIT_FILE,
    WHERE_IT_RUNS,
    WORK_FOLDER,
    TrainJob,
    start_monitor,
)
from agegender.pipelines.train.split import SplitImages, split_images
from agegender.reports.training import training_page
from agegender.scoring.load import learnt_images, open_model, training_images
from agegender.storage import files, tables

logger = logging.getLogger(__name__)

REPORT_FILE = "report.html"
INIT_FOLDER = "init"
TEACHERS_FOLDER = "teachers"

TRAIN_PACKAGES = ("onnx", "safetensors", "tensorboard", "torch", "torchvision")
"""What the extra ``train`` brings beside Ray's own; looked for before any image is read."""


def run_train(config: TrainConfig) -> dict[str, Any]:
    """Train into OUTPUT, or go on where an earlier run of the same command was stopped.

    Returns:
        The closing summary: where the model and the report are, images per part, metrics of the last epoch.

    Raises:
        ConfigError: OUTPUT holds another run, the settings cannot work together, or torch is not installed.
        InputError: no labelled image or too few, or ``init`` is no usable model.
        ResourceError: storage, disk or cluster failed; the same command goes on.
    """
    missing = [name for name in TRAIN_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise train_extra_missing("training", ", ".join(missing))
    config = config.model_copy(update={"output": files.absolute(config.output)})
    if config.init is not None and config.weights is not None:
        raise ConfigError(
            f"--init {config.init} and --weights {config.weights} both give the first weights: leave one of them out"
        )
    search = face_search(config)
    identity = config.model_dump(mode="json", exclude=set(WHERE_IT_RUNS)) | search_identity(search)
    check_storage(config)
    earlier = claim_output(config.output, "train", config, identity)
    if earlier is not None and earlier["state"] == DONE:
        logger.info("%s: this run is finished; nothing was done", config.output)
        return dict(earlier["result"])
    started_s = time.monotonic()
    with ray_session(config.address, config.num_cpus), own_errors():
        config, split, teachers = _begin(config, search)
        seen_before = _seen_by_init(config, split)
        if not files.exists(_model_info_uri(config)):
            _train(config, search, split, teachers)
    result = _result(config, split, seen_before, time.monotonic() - started_s)
    _write_report(config, split, result)
    finish_record(config.output, "train", config, identity, result)
    _delete_folder(files.join(config.output, WORK_FOLDER))
    return result


def _model_info_uri(config: TrainConfig) -> str:
    return files.join(config.output, MODEL_FOLDER, INFO_FILE)


def _begin(config: TrainConfig, search: FaceSearch | None) -> tuple[TrainConfig, SplitImages, tuple[str, ...]]:
    """Take over the network to start from, split the images and check the teachers.

    What fails here leaves OUTPUT free for another try.
    """
    begun = files.exists(files.join(config.output, SPLIT_FILE))
    try:
        config = _with_init(config)
        split = split_images(config, search)
        return config, split, _kept_teachers(config, split)
    except (ConfigError, InputError):
        if not begun:
            _delete_folder(files.join(config.output, WORK_FOLDER))
            files.delete(files.join(config.output, SPLIT_FILE))
            files.delete(record_uri(config.output, "train"))
        raise


def _with_init(config: TrainConfig) -> TrainConfig:
    """The config with the network of the model to start from, which is copied to where all workers find it."""
    if config.init is None:
        return config
    kept = files.join(config.output, WORK_FOLDER, INIT_FOLDER)
    if not files.exists(files.join(kept, INFO_FILE)):
        files.upload_folder(localize_model(model_address(config.init)), kept, last=INFO_FILE)
    info = open_model(localize_model(kept))
    check_framing(info, config.init)
    network = info.network.model_dump()
    # what it was trained on has a margin about what it takes now
    network |= {name: info.config[name] for name in ("image_size_px", "crop_fraction") if name in info.config}
    taken = {name: value for name, value in network.items() if getattr(config, name) != value}
    if taken:
        logger.info("taken over from %s: %s", config.init, ", ".join(f"{k} {v}" for k, v in taken.items()))
    return config.model_copy(update={**network, "init": kept})


def _kept_teachers(config: TrainConfig, split: SplitImages) -> tuple[str, ...]:
    """Where the teachers are copied to, so that all workers find them.

    Raises:
        InputError: a teacher without an age distribution, or one that has seen images that this run is judged on.
    """
    kept = []
    for number, said in enumerate(config.teacher):
        folder = files.join(config.output, WORK_FOLDER, TEACHERS_FOLDER, str(number))
        if not files.exists(files.join(folder, INFO_FILE)):
            files.upload_folder(localize_model(model_address(said)), folder, last=INFO_FILE)
        info = open_model(localize_model(folder))
        check_framing(info, said)
        if info.network.age_head == "scalar":
            raise InputError(f"--teacher {said}: estimates one number and no distribution; give a model with one")
        counts = _seen_images(split, learnt_images(localize_model(folder)))  # its calibration is not what is taught
        if any(counts.values()):
            raise InputError(
                f"--teacher {said}: was trained on {counts['val']} images of this run's val part and {counts['test']} of "
                "test, and what it tells of them would flatter every figure. Train it with the same --seed, and with a "
                "--val-fraction and a --test-fraction that are not smaller"
            )
        kept.append(folder)
    return tuple(kept)


def _seen_images(split: SplitImages, known: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> dict[str, int]:
    """How many images of val and test are among known training images."""
    parts = np.array(split.table["part"].to_pylist())
    seen = np.isin(image_keys(split.table["content_hash"].to_pylist()), known)
    return {part: int(seen[parts == part].sum()) for part in ("val", "test")}


def _seen_by_init(config: TrainConfig, split: SplitImages) -> dict[str, int]:
    """Images of val and test that the model to start from has been trained on, by part."""
    if config.init is None:
        return {}
    counts = _seen_images(split, training_images(localize_model(config.init)))
    if any(counts.values()):
        logger.warning(
            "the model to start from was trained on %d images of val, %d of test: their figures flatter",
            *counts.values(),
        )
    return counts


def _train(config: TrainConfig, search: FaceSearch | None, split: SplitImages, teachers: tuple[str, ...]) -> None:
    # They import torch, which takes seconds; not for a wrong command.
    from agegender.pipelines.train import fit as train_fit
    from agegender.pipelines.train import resume as train_resume

    train_fit.check_gpus(config)
    resume_from, attempt = train_resume.newest_checkpoint(config.output, split.hash)
    train_resume.delete_attempts_before(config.output, attempt, resume_from)
    network = NetworkConfig(**{name: getattr(config, name) for name in NetworkConfig.model_fields})
    job = TrainJob(
        config=config,
        network=network,
        search=search,
        units=split.units,
        split_hash=split.hash,
        threads=max(1, int(train_fit.reserved_cpus(config))),
        resume_from=resume_from,
        init=config.init,
        monitor=start_monitor(),
        teachers=teachers,
    )
    size_gb = cache_size_bytes(split.parts["train"] + split.parts["val"], config.image_size_px) / GIGABYTE
    logger.info("decoded images: %.2f GB on each node, in %s, removed at the end", size_gb, job.cache_path.parent)
    train_fit.fit(job, attempt, split.parts["train"] * config.epochs)


def _history(config: TrainConfig) -> list[dict[str, Any]]:
    lines = files.read_bytes(files.join(config.output, METRICS_FILE)).decode().splitlines()
    return [json.loads(line) for line in lines]


def _result(config: TrainConfig, split: SplitImages, seen_before: dict[str, int], elapsed_s: float) -> dict[str, Any]:
    info = open_model(localize_model(files.join(config.output, MODEL_FOLDER)))
    history = _history(config)
    last = history[-1]
    used_s = sum(row["seconds"] for row in history)
    return {
        "model": files.join(config.output, MODEL_FOLDER),
        "model_id": info.model_id,
        "report": files.join(config.output, REPORT_FILE),
        "images": split.listed,
        **{f"{part}_images": count for part, count in split.parts.items()},
        **{f"{part}_images_seen_by_init": count for part, count in seen_before.items()},
        "epochs": len(history),
        "age_mae_years": last["age_mae_years"],
        "gender_accuracy": last["gender_accuracy"],
        "precision": info.config["precision"],
        "images_per_s": sum(row["images_per_s"] * row["seconds"] for row in history) / used_s,
        "training_s": used_s,
        "elapsed_s": elapsed_s,
    }


def _write_report(config: TrainConfig, split: SplitImages, result: dict[str, Any]) -> None:
    examples_uri = files.join(config.output, WORK_FOLDER, EXAMPLES_FILE)
    with_images = config.images and files.exists(examples_uri)
    page = training_page(
        result,
        _history(config),
        split.table,
        config.model_dump(mode="json"),
        tables.read_table(examples_uri).to_pylist() if with_images else None,
    )
    files.write_bytes(files.join(config.output, REPORT_FILE), page.encode())


def _delete_folder(uri: str) -> None:
    for info in list(files.list_files(uri, allow_empty=True, hidden=True)):
        files.delete(info.uri)
