"""What a training run left in its output, looked at without Ray and without its cache."""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from agegender.data.images import decode, resize
from agegender.evaluation.bootstrap import mean_bounds, share_bounds
from agegender.model import batches, trainer
from agegender.model.checkpoint import load_network
from agegender.model.trainer import Estimates, Tally
from agegender.recipe import Recipe
from tests.support.corpus import pixels_of


def metrics(output: Path | str) -> list[dict[str, Any]]:
    """One row per epoch."""
    return [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]


def in_val(output: Path | str) -> Any:
    """bool[N]: which rows of the split are validation images."""
    return np.array(pq.read_table(Path(output) / "split.parquet")["part"].to_pylist()) == "val"


def measured_again(output: Path | str) -> tuple[batches.Samples, Estimates, Tally]:
    """The kept model on the validation part, in one process."""
    network, info = load_network(Path(output) / "model")
    rows = pq.read_table(Path(output) / "split.parquet").filter(in_val(output)).to_pylist()
    side_px = info.config["image_size_px"]
    pixels = np.stack([resize(pixels_of(decode(Path(row["uri"]).read_bytes(), 10**8)), side_px) for row in rows])
    ages = np.array([row["age_years"] for row in rows], np.float32)
    genders = np.array([row["gender"] for row in rows], np.int64)
    samples = batches.Samples(pixels, np.arange(len(rows)), ages, genders)
    estimates, tally = trainer.evaluate(network, samples, range(len(rows)), Recipe(), torch.device("cpu"))
    return samples, estimates, tally


def bounds(output: Path | str) -> dict[str, tuple[float, float]]:
    """95 % bootstrap bounds of what the kept model reaches on the validation part, by the name in metrics.jsonl."""
    samples, estimates, tally = measured_again(output)
    errors = np.abs(estimates.age_years.astype(np.float64) - samples.age_years)
    low, high = mean_bounds(errors[:, None], rounds=1000, seed=0)
    hits = share_bounds(round(tally.sums["gender_correct"]), round(tally.counts["gender_correct"]))
    return {"age_mae_years": (float(low[0]), float(high[0])), "gender_accuracy": hits}


def checkpoint_steps(output: Path) -> dict[Path, int]:
    """Folder of each checkpoint -> its step; the newest may not be whole yet."""
    found = {}
    for state in output.glob("_work/attempts/*/checkpoint_*/state.json"):
        with contextlib.suppress(OSError, ValueError):  # still being written, or already being removed
            found[state.parent] = int(json.loads(state.read_bytes())["step"])
    return found
