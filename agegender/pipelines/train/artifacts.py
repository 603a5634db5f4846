"""What rank 0 of a training run writes: metrics after each epoch, the model and examples at the end."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.tensorboard import SummaryWriter

from agegender.artifact import INFO_FILE, ModelInfo, image_keys
from agegender.data.images import encode_jpeg
from agegender.model.batches import Samples
from agegender.model.checkpoint import round_weights, save_model
from agegender.model.network import FaceNetwork
from agegender.model.trainer import Estimates
from agegender.options import LABELS, OUTPUT
from agegender.pipelines.runtime.detector import search_identity
from agegender.pipelines.train.calibrate import calibrate
from agegender.pipelines.train.initial import seen_before
from agegender.pipelines.train.int8 import add_int8, has_int8, sample_for_int8
from agegender.pipelines.train.job import TrainJob
from agegender.recipe import Recipe
from agegender.storage import files, tables

logger = logging.getLogger(__name__)

EXAMPLES = 24
"""How many validation images the report shows."""


class MetricsLog:
    """``metrics.jsonl`` and TensorBoard's files, one entry per epoch.

    Args:
        job: says where to write.
        history: finished epochs; entries that an earlier process wrote beyond them are removed.
    """

    def __init__(self, job: TrainJob, history: list[dict[str, Any]]) -> None:
        self._layout = job.layout
        self._upload = files.is_s3(self._layout.output)
        folder = tempfile.mkdtemp() if self._upload else self._layout.tensorboard
        self._folder = Path(folder)
        is_new = not files.peek(self._layout.tensorboard)
        self._writer = SummaryWriter(folder, purge_step=len(history) + 1)
        if history:
            self._write(history)
        for row in history if is_new else ():  # of a training elsewhere, which --resume-from takes over
            self._draw(row)

    def append(self, history: list[dict[str, Any]]) -> None:
        """Write a history that is one epoch longer than the last one."""
        self._write(history)
        self._draw(history[-1])

    def _draw(self, row: dict[str, Any]) -> None:
        """Draw the floats of an epoch; those of a source as ``METRIC/SOURCE``."""
        by_source = row.get("by_source", {})
        each = {f"{metric}/{source}": value for source, of_it in by_source.items() for metric, value in of_it.items()}
        for name, value in (row | each).items():
            if isinstance(value, float):
                self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()
        if self._upload:
            files.upload_folder(self._folder, self._layout.tensorboard)

    def _write(self, history: list[dict[str, Any]]) -> None:
        lines = "".join(f"{json.dumps(row)}\n" for row in history)
        files.write_bytes(self._layout.history, lines.encode())


def save_calibrated_model(
    job: TrainJob,
    network: FaceNetwork,
    train: Samples,
    val: Samples,
    device: torch.device,
    precision: str,
    history: list[dict[str, Any]],
) -> ModelInfo:
    """Calibrate on the validation part and write OUTPUT/model, with model.json last.

    Saves the averaged weights of the last epoch: selecting an epoch by the validation part would make the intervals, which
    are calibrated on it, too narrow.

    Args:
        job: config, split and output.
        network: the averaged weights.
        train: the training part, of which some images calibrate the int8 graph.
        val: the validation part.
        device: of the network.
        precision: of the training, for the record.
        history: metrics of each epoch.
    """
    round_weights(network)
    calibration, estimates = calibrate(network, val, job.config.recipe(), device)
    if job.config.images:
        tables.write_table(job.layout.examples, _examples(val, estimates, job.config.recipe()))
    with tempfile.TemporaryDirectory() as folder:
        info = save_model(
            Path(folder),
            network.cpu(),
            calibration,
            *_image_keys_by_use(job),
            job.split_hash,
            job.config.identity(OUTPUT, LABELS) | search_identity(job.searches.search) | {"precision": precision},
            {name: value for name, value in history[-1].items() if isinstance(value, float)},
        )
        if has_int8(info.network.backbone):
            calibration_images = sample_for_int8(train, info.network.image_size_px, job.config.seed)
            info = add_int8(Path(folder), calibration_images, val)
        files.upload_folder(Path(folder), job.layout.model, last=INFO_FILE)
    return info


def _image_keys_by_use(job: TrainJob) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Keys of the images that the weights were trained on, those of the initial weights included, and of the calibration images."""
    split = tables.read_table(job.layout.split)
    training, calibration = (
        image_keys(split.filter(pc.equal(split["part"], part))["content_hash"].to_pylist()) for part in ("train", "val")
    )
    return np.union1d(training, seen_before(job.init, job.config.weights_file)), calibration


def _examples(val: Samples, estimates: Estimates, recipe: Recipe) -> pa.Table:
    """A random sample of validation images, with labels and estimates."""
    sampled = np.random.default_rng(recipe.seed).permutation(len(val))[:EXAMPLES]
    return pa.table(
        {
            "jpeg": pa.array(
                [encode_jpeg(np.ascontiguousarray(val.pixels[row])) for row in val.rows[sampled]], pa.binary()
            ),
            "age_years": pa.array(val.age_years[sampled], pa.float32(), mask=np.isnan(val.age_years[sampled])),
            **_range_columns(val, sampled),
            "gender": pa.array(val.gender[sampled], pa.int8(), mask=val.gender[sampled] < 0),
            "estimated_age_years": pa.array(estimates.age_years[sampled], pa.float32()),
            "estimated_gender": pa.array((estimates.gender_logit[sampled] > 0).astype(np.int8)),
        }
    )


def _range_columns(val: Samples, sampled: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    """The first and last year of the range of each sampled image, null without one."""
    none = np.full((len(val), 2), np.nan, dtype=np.float32)
    ends = (none if val.age_ranges is None else val.age_ranges)[sampled]
    names = ("age_low_years", "age_high_years")
    return {name: pa.array(ends[:, i], pa.float32(), mask=np.isnan(ends[:, i])) for i, name in enumerate(names)}
