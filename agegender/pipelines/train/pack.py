"""Pack the images of a training for a machine without Ray, the images or a network.

    source -> listing -> facts -> split.parquet -> decoded images -> pack/

The driver decodes and compresses: a pack is made for one machine, so its images pass through one machine anyway.
"""

import hashlib
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

import agegender
from agegender.artifact import INFO_FILE as MODEL_INFO_FILE
from agegender.artifact import WEIGHTS_FILE
from agegender.data import pack
from agegender.data.cache import GIGABYTE, DecodedImages, cache_size_bytes, open_cache, remove_cache
from agegender.errors import ResourceError
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.runtime.run_record import failure_recorded, finish_record
from agegender.pipelines.runtime.session import own_errors, ray_session
from agegender.pipelines.train.job import TrainJob
from agegender.pipelines.train.run import claim_training, prepare, training_job
from agegender.pipelines.train.split import SplitImages
from agegender.storage import files, tables
from agegender.training_config import PackConfig, TrainConfig

logger = logging.getLogger(__name__)


def run_pack(config: PackConfig) -> dict[str, Any]:
    """Write OUTPUT/pack, or resume an earlier run of the same command.

    Returns:
        The summary: address of the pack, images per part, its size.

    Raises:
        ConfigError: OUTPUT holds another run, settings contradict each other, or torch is not installed.
        InputError: no labelled image or too few, or ``init`` is not a usable model.
        ResourceError: storage, disk or cluster failed; the same command resumes.
    """
    started_s = time.monotonic()
    claim = claim_training(config, "pack")
    if claim.result is not None:
        return claim.result
    config = claim.config
    with failure_recorded(config.output, "pack"):
        with ray_session(config.address, config.num_cpus), own_errors():
            resolved, split, teachers = prepare(config, claim.searches)
        threads = config.num_cpus or os.cpu_count() or 1
        job = training_job(resolved, claim.searches, split, threads, teachers=teachers)
        # The copy of --init is in the pack as initial weights; what is recorded is what was said.
        info, size_bytes = _write(job, resolved.model_copy(update={"init": config.init}), split)
        result = {
            "pack": files.join(config.output, "pack"),
            "images": split.listed,
            "ignored_files": split.ignored,
            **{f"{part}_images": count for part, count in info.images.items()},
            "image_files": sum(name.startswith("images-") for name in info.files),
            "megabytes": round(size_bytes / 1e6, 1),
            "split_hash": split.hash,
            "elapsed_s": time.monotonic() - started_s,
        }
        finish_record(config.output, "pack", config, claim.identity, result)
    files.delete_folder(OutputLayout(config.output).work())
    return result


def _write(job: TrainJob, config: PackConfig, split: SplitImages) -> tuple[pack.PackInfo, int]:
    """Write the files and then pack.json; returns it and the bytes of all files."""
    from agegender.pipelines.train.samples import check_lost, train_and_val  # imports torch

    folder = files.join(config.output, "pack")
    files.delete_folder(folder)  # of a killed run
    rows = train_and_val(split.table)
    images = _decoded(job)
    check_lost(config, images.usable)
    written: dict[str, str] = {}
    size_bytes = 0
    packed = pack.packed_files(
        *(rows, images.pixels, images.usable, config.image_format, config.image_quality),
        file_bytes=round(config.pack_file_mb * 1e6),
        threads=job.threads,
    )
    for name, data in (*packed, *_initial(job, config), *_teachers(job)):
        files.write_bytes(files.join(folder, name), data)
        written[name] = hashlib.sha256(data).hexdigest()
        size_bytes += len(data)
    parts = rows["part"].filter(pa.array(images.usable)).to_pylist()
    info = pack.PackInfo(
        config=config.training().model_dump(mode="json"),
        network=job.network,
        split_hash=split.hash,
        images={part: parts.count(part) for part in ("train", "val")},
        image_format=config.image_format,
        teachers=[f"teachers/{number}" for number in range(len(job.teachers))],
        files=written,
        created_by=f"agegender {agegender.__version__}",
    )
    files.write_bytes(files.join(folder, pack.INFO_FILE), info.model_dump_json(indent=1).encode())
    remove_cache(job.cache_path)
    return info, size_bytes


def _decoded(job: TrainJob) -> DecodedImages:
    from agegender.pipelines.train.data import build_split_cache

    rows = tables.read_table(job.layout.split, ["part"])["part"].to_pylist()
    size_gb = cache_size_bytes(len(rows) - rows.count("test"), job.network.image_size_px) / GIGABYTE
    logger.info("decoded images: %.2f GB, in %s, deleted at the end", size_gb, job.cache_path.parent)
    if not job.cache_path.exists():
        build_split_cache(job, job.threads)
    images = open_cache(job.cache_path)
    if images is None:
        raise ResourceError(
            f"{job.cache_path}: the decoded images were deleted while in use: run the same command again"
        )
    return images


def _initial(job: TrainJob, config: TrainConfig) -> list[tuple[str, bytes]]:
    """The initial weights, where they are not random: of ``--init`` or ``--weights``."""
    if job.init is None and config.weights is None:
        return []
    import torch
    from safetensors.torch import save

    from agegender.model.checkpoint import load_network
    from agegender.model.network import build_network

    torch.manual_seed(config.seed)
    if job.init is not None:
        network, _ = load_network(localize_model(job.init).folder)
    else:
        network = build_network(job.network, config.weights)
    return [(pack.INITIAL_FILE, save({name: value.contiguous() for name, value in network.state_dict().items()}))]


def _teachers(job: TrainJob) -> list[tuple[str, bytes]]:
    found = []
    for number, teacher in enumerate(job.teachers):
        with tempfile.TemporaryDirectory() as temporary:
            files.download_folder(teacher, Path(temporary))
            found += [
                (f"teachers/{number}/{name}", (Path(temporary) / name).read_bytes())
                for name in (WEIGHTS_FILE, MODEL_INFO_FILE)
            ]
    return found
