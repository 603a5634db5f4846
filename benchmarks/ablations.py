"""What each part of the recipe is worth: short trainings that differ in one thing, judged on the validation part alone.

    agegender train --input UTKFace/ --output out/any --epochs 1        # for its split.parquet, which groups duplicates
    python benchmarks/ablations.py --split out/any/split.parquet --output out/ablations [--only base ...]

The parts are the protocol's, 60 % to learn from, 20 % to judge on, 20 % never opened here. One line per run in
OUTPUT/runs.jsonl; what is there is not run again; the table is OUTPUT/table.md.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from plain_training import fit, load_images, network_config, part_samples
from torch import nn

from agegender.config import Recipe
from agegender.model import trainer
from agegender.model.network import FaceNetwork, build_network

Patch = Callable[[FaceNetwork], object]


def mean_pool(network: FaceNetwork) -> None:
    """A mean over places in place of a weight for each."""
    network.backbone.pool = nn.AdaptiveAvgPool2d(1)


def no_dropout(network: FaceNetwork) -> None:
    """Nothing dropped before the heads."""
    network.dropout.p = 0.0


def zero_start(network: FaceNetwork) -> None:
    """Residual blocks begin as the identity (Goyal et al., 2017)."""
    for name, module in network.named_modules():
        if name.endswith("norm2"):
            nn.init.zeros_(module.weight)


ROWS: dict[str, tuple[dict[str, Any], Patch | None]] = {
    "base": ({}, None),
    "mean pool": ({}, mean_pool),
    "no dropout": ({}, no_dropout),
    "blocks begin as identity": ({}, zero_start),
    "no erasing": ({"augment": {"erase_probability": 0.0}}, None),
    "no darkness, noise, few pixels": (
        {"augment": {"darkness_probability": 0.0, "noise_probability": 0.0, "low_resolution_probability": 0.0}},
        None,
    ),
    "whole image, no margin": ({"crop_fraction": 1.0, "image_size_px": 96}, None),
    "112 of 128 px": ({"image_size_px": 128, "crop_fraction": 0.875}, None),
    "batch 128": ({"batch_size": 128}, None),
    "learning rate 1e-3": ({"learning_rate": 1e-3}, None),
    "learning rate 4e-3": ({"learning_rate": 4e-3}, None),
    "target width 1.5 years": ({"age_sigma_years": 1.5}, None),
    "target width 4 years": ({"age_sigma_years": 4.0}, None),
    "distribution loss alone": ({"age_error_weight": 0.0}, None),
    "scalar head, absolute error alone": (
        {"age_head": "scalar", "age_distribution_weight": 0.0, "age_error_weight": 0.2},
        None,
    ),
    "no weight average": ({"ema_decay": 0.0}, None),
}
"""What differs from the default recipe."""


def main() -> None:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True, help="split.parquet of a training run on the whole set")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    runs = given.output / "runs.jsonl"
    done = [json.loads(line) for line in runs.read_text().splitlines()] if runs.exists() else []
    rows, pixels = load_images(given.split, given.output, val_fraction=0.2, test_fraction=0.2)
    for seed in given.seeds:
        for name in given.only:
            if any((run["row"], run["seed"], run["epochs"]) == (name, seed, given.epochs) for run in done):
                continue
            run = {"row": name, "seed": seed, "epochs": given.epochs, **_run(name, given, seed, rows, pixels)}
            done.append(run)
            print(json.dumps(run), flush=True)
            with runs.open("a") as file:
                file.write(json.dumps(run) + "\n")
    (given.output / "table.md").write_text(_table(done))


def _run(name: str, given: argparse.Namespace, seed: int, rows: pa.Table, pixels: np.ndarray) -> dict[str, float]:
    overrides, patch = ROWS[name]
    recipe, device = Recipe(**{**overrides, "epochs": given.epochs, "seed": seed}), torch.device(given.device)
    shape = network_config(recipe)
    train, val = (part_samples(rows, pixels, part, shape.image_size_px) for part in ("train", "val"))
    torch.manual_seed(seed)
    network = build_network(shape)
    if patch is not None:
        patch(network)
    averaged, seconds = fit(network, recipe, train, device)
    result = {"images_per_s": round(len(train) * given.epochs / seconds, 1)}
    for readout, views in (("expectation", 1), ("median", 1), ("median", 2)):
        averaged.config = shape.model_copy(update={"age_readout": readout, "views": views})
        means = trainer.evaluate(averaged, val, range(len(val)), recipe, device)[1].means()
        result[f"age_mae_years_{readout}_{views}"] = round(means["age_error_years"], 4)
        result[f"gender_accuracy_{views}"] = round(means["gender_correct"], 4)
    return result


def _table(runs: list[dict[str, Any]]) -> str:
    """Means over the seeds, with each seed's MAE beside."""
    lines = ["| what differs | epochs | MAE, years | by seed | gender right | images/s |", "|---|---|---|---|---|---|"]
    for name, epochs in dict.fromkeys((run["row"], run["epochs"]) for run in runs):
        same = [run for run in runs if (run["row"], run["epochs"]) == (name, epochs)]
        errors = [run["age_mae_years_median_2"] for run in same]
        gender = 100 * np.mean([run["gender_accuracy_2"] for run in same])
        speed = np.mean([run["images_per_s"] for run in same])
        seeds = ", ".join(f"{error:.2f}" for error in errors)
        lines.append(f"| {name} | {epochs} | {np.mean(errors):.2f} | {seeds} | {gender:.1f} % | {speed:.0f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
