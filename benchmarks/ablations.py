"""Ablations: short training runs that differ in one setting, compared on the validation part.

    agegender train --input UTKFace/ --output out/any --epochs 1        # for its split.parquet, which groups duplicates
    python benchmarks/ablations.py --split out/any/split.parquet --output out/ablations [--only base ...]

The split is the protocol's: 60 % training, 20 % validation, 20 % test, which is not used here. The network sees 64 of 72 px in
place of 112 of 128, a third of the pixels, so that a run takes minutes. One line per run in OUTPUT/runs.jsonl; what is there
is not run again; the table is OUTPUT/table.md.
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

from agegender.model import trainer
from agegender.model.backbones import CompactBackbone
from agegender.model.network import FaceNetwork, build_network
from agegender.recipe import Recipe

Patch = Callable[[FaceNetwork], object]

BASE = {"image_size_px": 72, "crop_fraction": 0.889, "precision": "float32"}


def mean_pool(network: FaceNetwork) -> None:
    """Mean pooling instead of a weight per position."""
    network.backbone.pool = nn.AdaptiveAvgPool2d(1)


def halving_stem(network: FaceNetwork) -> None:
    """Reduce to a quarter of the side in two steps (stem and first stage) instead of one."""
    network.backbone = CompactBackbone(network.config.crop_size_px, strides=(2, 2, 2, 2), stem=(3, 2))


def narrow(network: FaceNetwork) -> None:
    """Narrower early stages, two blocks in the last."""
    network.backbone = CompactBackbone(network.config.crop_size_px, widths=(32, 64, 128, 256), blocks=(1, 1, 2, 2))


ROWS: dict[str, tuple[dict[str, Any], Patch | None]] = {
    "base": ({}, None),
    "AdamW at its 2e-3": ({"optimizer": "adamw", "learning_rate": 2e-3}, None),
    "learning rate 2e-3": ({"learning_rate": 2e-3}, None),
    "learning rate 1e-2": ({"learning_rate": 1e-2}, None),
    "stem in two steps": ({}, halving_stem),
    "narrow stages": ({}, narrow),
    "no margin: 64 of 64 px": ({"image_size_px": 64, "crop_fraction": 1.0}, None),
    "mean pool": ({}, mean_pool),
    "no darkness, noise, few pixels": (
        {"augment": {"darkness_probability": 0.0, "noise_probability": 0.0, "low_resolution_probability": 0.0}},
        None,
    ),
    "distribution loss alone": ({"age_error_weight": 0.0}, None),
    "scalar head, absolute error alone": (
        {"age_head": "scalar", "age_distribution_weight": 0.0, "age_error_weight": 0.2},
        None,
    ),
    "target width 1.5 years": ({"age_sigma_years": 1.5}, None),
    "bfloat16": ({"precision": "bfloat16"}, None),
}
"""Differences of ``BASE`` from the default recipe."""

READOUTS = (("", "median", 2), ("; one view", "median", 1), ("; one view, expectation", "expectation", 1))
"""Readouts of a trained network; the first is the recipe's."""


def main() -> None:
    """Run the missing runs, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True, help="split.parquet of a training run on the whole set")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--threads", type=int, help="of one run; several runs of one thread each, side by side, are faster"
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    if given.threads:
        torch.set_num_threads(given.threads)
    runs = given.output / "runs.jsonl"
    runs.touch()
    done = _read(runs)
    rows, pixels = load_images(given.split, given.output, val_fraction=0.2, test_fraction=0.2)
    for seed in given.seeds:
        for name in given.only:
            if any((run["row"], run["seed"], run["epochs"]) == (name, seed, given.epochs) for run in done):
                continue
            run = {"row": name, "seed": seed, "epochs": given.epochs, **_run(name, given, seed, rows, pixels)}
            print(json.dumps(run), flush=True)
            with runs.open("a") as file:
                file.write(json.dumps(run) + "\n")
    (given.output / "table.md").write_text(_table(_read(runs)))  # including runs that other processes added


def _read(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in runs.read_text().splitlines()]


def _run(name: str, given: argparse.Namespace, seed: int, rows: pa.Table, pixels: np.ndarray) -> dict[str, float]:
    overrides, patch = ROWS[name]
    recipe, device = Recipe(**{**BASE, **overrides, "epochs": given.epochs, "seed": seed}), torch.device(given.device)
    shape = network_config(recipe)
    train, val = (part_samples(rows, pixels, part, shape.image_size_px) for part in ("train", "val"))
    torch.manual_seed(seed)
    network = build_network(shape)
    if patch is not None:
        patch(network)
        network = network.to(memory_format=torch.channels_last)
    averaged, seconds = fit(network, recipe, train, device)
    result = {"images_per_s": round(len(train) * given.epochs / seconds, 1)}
    for _, readout, views in READOUTS:
        averaged.config = shape.model_copy(update={"age_readout": readout, "views": views})
        means = trainer.evaluate(averaged, val, range(len(val)), recipe, device)[1].means()
        result[f"age_mae_years_{readout}_{views}"] = round(means["age_error_years"], 4)
        result[f"gender_accuracy_{views}"] = round(means["gender_correct"], 4)
    return result


def _table(runs: list[dict[str, Any]]) -> str:
    """Means over the seeds, and the MAE of each seed."""
    lines = ["| what differs | epochs | MAE, years | by seed | gender right | images/s |", "|---|---|---|---|---|---|"]
    for name, epochs in dict.fromkeys((run["row"], run["epochs"]) for run in runs):
        same = [run for run in runs if (run["row"], run["epochs"]) == (name, epochs)]
        speed = np.mean([run["images_per_s"] for run in same])
        for what, readout, views in READOUTS if name == "base" else READOUTS[:1]:
            errors = [run[f"age_mae_years_{readout}_{views}"] for run in same]
            gender = 100 * np.mean([run[f"gender_accuracy_{views}"] for run in same])
            seeds = ", ".join(f"{error:.2f}" for error in errors)
            lines.append(
                f"| {name}{what} | {epochs} | {np.mean(errors):.2f} | {seeds} | {gender:.1f} % | {speed:.0f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
