"""``agegender sample``: a labelled set of drawn faces in a folder or under an s3:// prefix."""

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
from agegender.pipelines.runtime.run_record import claim_output, finish_record, read_record
from agegender.storage import files

logger = logging.getLogger(__name__)

_JOB = "sample"
_CHUNK_IMAGES = 25
_DRAWING_VERSION = 1
"""Raised when the same seed would give other drawings."""


def run_sample(config: SampleConfig) -> dict[str, Any]:
    """Draw the faces that are not there yet; a run that was killed goes on, and a larger count adds to a smaller one.

    Returns:
        ``output``, ``images`` (in OUTPUT now), ``seed``, and ``drawn`` (by this call).

    Raises:
        ConfigError: OUTPUT holds other files, or a sample of another seed or size; nothing was changed.
        ResourceError: storage failed, or a drawing process died.
    """
    identity = {"seed": config.seed, "size_px": config.size_px, "drawing_version": _DRAWING_VERSION}
    names = [sample_name(index, config.seed) for index in range(config.count)]
    present = {files.name(info.uri) for info in files.list_files(config.output, allow_empty=True)}
    _claim(config, identity, present, set(names))
    missing = [index for index, name in enumerate(names) if name not in present]
    _draw_all(config, missing)
    result = {"output": config.output, "images": len(names), "seed": config.seed, "drawn": len(missing)}
    finish_record(config.output, _JOB, config, identity, result)
    return result


def _claim(config: SampleConfig, identity: dict[str, Any], present: set[str], names: set[str]) -> None:
    """Refuse an OUTPUT that holds anything but this very sample, before anything is written."""
    if present and read_record(config.output, _JOB) is None:
        raise ConfigError(
            f"{config.output} holds other files, e.g. {min(present)}. Nothing was changed. Give another --output"
        )
    claim_output(config.output, _JOB, config, identity)
    foreign = present - names
    if foreign:
        raise ConfigError(
            f"{config.output} holds {len(foreign)} files beyond the {config.count} drawings asked for, e.g. {min(foreign)}. "
            "Nothing was changed. Give the --count that it was made with, or another --output"
        )


def _draw_all(config: SampleConfig, missing: Sequence[int]) -> None:
    """Draw and write in parallel by processes: a second of work for each core is not worth the start of a cluster."""
    chunks = [missing[first : first + _CHUNK_IMAGES] for first in range(0, len(missing), _CHUNK_IMAGES)]
    workers = min(config.num_workers or os.cpu_count() or 1, len(chunks))
    with Progress(config.count, "drawings", "sample") as progress:
        progress.start_at(config.count - len(missing))
        if workers <= 1:
            for chunk in chunks:
                progress.update(_draw_chunk(chunk, config.output, config.seed, config.size_px))
            return
        # Spawned, for a fork of a process with threads (S3 connections, a test's Ray) may hang.
        pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
        try:
            done = [pool.submit(_draw_chunk, chunk, config.output, config.seed, config.size_px) for chunk in chunks]
            for future in as_completed(done):
                progress.update(future.result())
        except BrokenProcessPool as error:
            raise ResourceError(
                f"A process that drew for {config.output} died: {error}. Perhaps memory ran out: try --num-workers 1. "
                "The same command goes on where this one stopped"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _draw_chunk(indices: Sequence[int], output: str, seed: int, size_px: int) -> int:
    for index in indices:
        name, data = draw_sample(index, seed, size_px)
        files.write_bytes(files.join(output, name), data)
    return len(indices)
