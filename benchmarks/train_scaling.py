"""What training in two workers costs: its images/s against those of two loops that know nothing of each other.

    agegender sample --output out/faces --count 3000
    python benchmarks/train_scaling.py --input out/faces --output out/scaling [--epochs 4] [--rounds 3]

Each loop is `plain_training.fit` in a process with one thread and trains a network of its own on all images: once with the
whole batch in each step, and once with half of it, which is what each of two workers has. The optimizer does the same work
for a step of either, so the second is what is lost to Ray, to gradients that travel and to checkpoints; the first has the
loss in it that there are twice as many steps. Aimed at: 0.9 of the loops, and under 5 % of a step spent waiting for images.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from plain_training import fit, load_images, network_config, part_samples

from agegender.model.network import build_network
from agegender.recipe import Recipe

WORKERS = 2
BATCH = Recipe().batch_size


def main() -> None:
    """Train by turns in each way and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    for number in range(given.rounds):
        run = given.output / f"train-{number}"
        speed, waited = train(given.input, run, given.epochs)
        measured = {"agegender train, images/s": speed, "of it waiting for images": waited}
        for batch in (BATCH, BATCH // WORKERS):
            measured[f"two loops of batch {batch}, images/s"] = two_loops(run, given.output, given.epochs, batch)
        print(json.dumps(measured), flush=True)
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    speed = medians["agegender train, images/s"]
    shares = {f"{name}: share": speed / value for name, value in medians.items() if name.startswith("two loops")}
    print(json.dumps(medians | shares, indent=1))


def train(source: str, output: Path, epochs: int) -> tuple[float, float]:
    """Images/s of two workers and the share of the time spent waiting for them, medians of all epochs but the first."""
    flags = [f"--num-workers={WORKERS}", f"--num-cpus={WORKERS}", f"--epochs={epochs}", "--no-images"]
    command = [sys.executable, "-m", "agegender.cli", "train", "--input", source, "--output", str(output), *flags]
    subprocess.run(command, check=True)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()][1:]
    return tuple(statistics.median(row[name] for row in rows) for name in ("images_per_s", "data_wait_share"))


def two_loops(run: Path, folder: Path, epochs: int, batch_size: int) -> float:
    """Images/s of both together, on the training part of a run."""
    context = multiprocessing.get_context("spawn")
    begin, speeds = context.Barrier(WORKERS), context.SimpleQueue()
    recipe = {"epochs": epochs, "batch_size": batch_size}
    arguments = (run / "split.parquet", folder / "pixels", recipe, begin, speeds)
    load_images(run / "split.parquet", folder / "pixels", 0.1, 0.1)  # decodes them, once
    loops = [context.Process(target=one_loop, args=arguments) for _ in range(WORKERS)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
        if loop.exitcode:
            raise SystemExit(f"a loop ended with {loop.exitcode}")
    return float(sum(speeds.get() for _ in loops))


def one_loop(
    split: Path,
    cache: Path,
    settings: dict[str, int],
    begin: Barrier,
    speeds: "multiprocessing.SimpleQueue[float]",
) -> None:
    """One thread, one network; begins when all loops are ready, so that both cores are busy for all of it."""
    torch.set_num_threads(1)
    recipe = Recipe(**settings)
    shape = network_config(recipe)
    rows, pixels = load_images(split, cache, 0.1, 0.1)
    samples = part_samples(rows, pixels, "train", shape.image_size_px)
    network = build_network(shape)
    warm_up = recipe.model_copy(update={"epochs": 1})
    fit(network, warm_up, samples, torch.device("cpu"))
    begin.wait()
    _, seconds = fit(network, recipe, samples, torch.device("cpu"))
    speeds.put(len(samples) * recipe.epochs / seconds)


if __name__ == "__main__":
    main()
