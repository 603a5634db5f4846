"""``agegender sample``: write a labelled set of synthetic faces to a folder or an s3:// prefix."""

import logging
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from agegender.config import SampleConfig
from agegender.data.synthetic import draw_sample, sample_name
from agegender.errors import ConfigError, ResourceError
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.run_record import claim_output, failure_recorded, finish_record
from agegender.storage import files

logger = logging.getLogger(__name__)

_JOB = "sample"
_CHUNK_IMAGES = 25
_DRAWING_VERSION = 1
"""Increased when the same seed gives other drawings."""


def run_sample(config: SampleConfig) -> dict[str, Any]:
    """Draw the missing faces: resumes a killed run, and adds to a sample with a smaller count.

    Returns:
        ``output``, ``images`` (in OUTPUT now), ``seed``, and ``drawn`` (by this call).

    Raises:
        ConfigError: OUTPUT has other files, or a sample of another seed or size; nothing was changed.
        ResourceError: storage failed, or a drawing process died.
    """
    config = config.model_copy(update={"output": files.absolute(config.output)})
    identity = {"seed": config.seed, "size_px": config.size_px, "drawing_version": _DRAWING_VERSION}
    names = [sample_name(index, config.seed) for index in range(config.count)]
    present = {files.name(info.uri) for info in files.list_files(config.output, allow_empty=True)}
    _claim(config, identity, present, set(names))
    missing = [index for index, name in enumerate(names) if name not in present]
    with failure_recorded(config.output, _JOB):
        _draw_all(config, missing)
    result = {"output": config.output, "images": len(names), "seed": config.seed, "drawn": len(missing)}
    finish_record(config.output, _JOB, config, identity, result)
    return result


def _claim(config: SampleConfig, identity: dict[str, Any], present: set[str], names: set[str]) -> None:
    """Refuse an OUTPUT with anything but this sample, before anything is written."""
    claim_output(config.output, _JOB, config, identity)
    foreign = present - names
    if foreign:
        raise ConfigError(
            f"{config.output} has {len(foreign)} files beyond --count {config.count}, e.g. {min(foreign)}. Nothing was changed. "
            "Give its original --count, or choose another --output"
        )


def _draw_all(config: SampleConfig, missing: Sequence[int]) -> None:
    """Draw and write in parallel processes; starting Ray would take longer than the work."""
    chunks = [missing[first : first + _CHUNK_IMAGES] for first in range(0, len(missing), _CHUNK_IMAGES)]
    workers = min(config.num_workers or os.cpu_count() or 1, len(chunks))
    with Progress(config.count, "drawings", "sample") as progress:
        progress.start_at(config.count - len(missing))
        if workers <= 1:
            for chunk in chunks:
                progress.update(_draw_chunk(chunk, config.output, config.seed, config.size_px))
            return
        # Spawn, because forking a process with threads (S3 connections, Ray in tests) may hang.
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        try:
            futures = [pool.submit(_draw_chunk, chunk, config.output, config.seed, config.size_px) for chunk in chunks]
            for future in as_completed(futures):
                progress.update(future.result())
        except BrokenProcessPool as error:
            raise ResourceError(
                f"{config.output}: a drawing process died: {error}. If memory ran out, try --num-workers 1. "
                "Run the same command again to resume"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_chunk(indices: Sequence[int], output: str, seed: int, size_px: int) -> int:
    for index in indices:
        name, data = draw_sample(index, seed, size_px)
        files.write_bytes(files.join(output, name), data)
    return len(indices)
