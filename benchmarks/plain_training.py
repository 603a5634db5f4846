"""The package's own training step in a plain loop: no Ray, no checkpoints, everything in memory.

For machines without Ray, for short comparisons (``ablations.py``), and as what the overhead of ``agegender train`` is
measured against.

    python benchmarks/plain_training.py --split out/any/split.parquet --output out/plain [--val-fraction 0.2 ...]
        [--recipe '{"epochs": 30, "batch_size": 256}'] [--device cuda]

The split file is that of any ``agegender train`` run on the whole set: it names the images and groups duplicates.
Writes a model folder, OUTPUT/model, calibrated on the validation part.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from agegender.artifact import NetworkConfig, image_keys
from agegender.data.images import decode, resize
from agegender.data.splits import split_hash, split_table
from agegender.model import batches, trainer
from agegender.model.batches import Samples
from agegender.model.checkpoint import round_weights, save_model
from agegender.model.feed import Feed
from agegender.model.network import FaceNetwork, build_network
from agegender.model.optimizer import make_optimizer
from agegender.pipelines.train.calibrate import calibrate
from agegender.recipe import Recipe
from agegender.schema import FACTS, LABEL_FIELDS, Status

STORED_PX = 128


def main() -> None:
    """Train one recipe and save the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--val-fraction", type=float, default=0.2)
    parser.add_argument("--test-fraction", type=float, default=0.2)
    parser.add_argument("--recipe", default="{}", help="JSON of what differs from the default recipe")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    recipe, device = Recipe(**json.loads(given.recipe)), torch.device(given.device)
    shape = network_config(recipe)
    stored_px = max(STORED_PX, recipe.image_size_px)
    rows, pixels = load_images(given.split, given.output, given.val_fraction, given.test_fraction, stored_px)
    train, val = (part_samples(rows, pixels, part, shape.image_size_px) for part in ("train", "val"))
    torch.manual_seed(recipe.seed)
    network = build_network(shape, recipe.weights)
    network.config = shape.for_scoring(recipe.augment.zoom_min)
    network, seconds = fit(network, recipe, train, device, val)
    round_weights(network)
    tally = trainer.evaluate(network, val, range(len(val)), recipe, device)[1]
    metrics = tally.means() | {"images_per_s": len(train) * recipe.epochs / seconds}
    calibration, _ = calibrate(network, val, recipe, device)
    parts, hashes = np.array(rows["part"].to_pylist()), np.array(rows["content_hash"].to_pylist(), dtype=object)
    learnt, calibrated = (image_keys(hashes[parts == part]) for part in ("train", "val"))
    config = recipe.model_dump(mode="json") | {"precision": trainer.resolve_precision(recipe.precision, device)}
    info = save_model(
        given.output / "model", network.cpu(), calibration, learnt, calibrated, split_hash(rows), config, metrics
    )
    print(json.dumps({"model_id": info.model_id, **metrics}))


def network_config(recipe: Recipe) -> NetworkConfig:
    """The architecture in a recipe."""
    return NetworkConfig(**{field: getattr(recipe, field) for field in NetworkConfig.model_fields})


def fit(
    network: FaceNetwork, recipe: Recipe, train: Samples, device: torch.device, val: Samples | None = None
) -> tuple[FaceNetwork, float]:
    """Train, and print the metrics on ``val``, if given, after each epoch.

    Returns:
        The averaged network in eval mode, and the seconds spent on training alone.
    """
    network = network.to(device)
    averaged, optimizer = trainer.averaged_copy(network, recipe), make_optimizer(network, recipe)
    precision = trainer.resolve_precision(recipe.precision, device)
    seconds = 0.0
    feed = Feed(train, recipe, 0, 1, 1, device, network.config.crop_size_px)
    for epoch in range(recipe.epochs):
        started_s = time.monotonic()
        for step, (micro_batch, _) in enumerate(feed.micro_batches(epoch, 0)):
            batches.seed_step(recipe.seed, micro_batch.place)
            rate = trainer.learning_rate_at(epoch * feed.steps + step, feed.steps * recipe.epochs, recipe)
            trainer.train_step(network, optimizer, micro_batch.batch, recipe, rate, precision)
            trainer.update_average(averaged, network, recipe.ema_decay, epoch * feed.steps + step)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds += time.monotonic() - started_s
        if val is not None:
            means = trainer.evaluate(averaged, val, range(len(val)), recipe, device)[1].means()
            print(epoch + 1, f"MAE {means['age_error_years']:.3f}, gender {means['gender_correct']:.4f}", flush=True)
    return averaged.eval(), seconds


def load_images(
    split_file: Path, cache: Path, val_fraction: float, test_fraction: float, stored_px: int = STORED_PX
) -> tuple[pa.Table, np.ndarray]:
    """The rows of a split with other fractions, and all their images, uint8[N, stored_px, stored_px, 3], decoded once."""
    split = pq.read_table(split_file)
    facts = {name: split[name] for name in ("uri", "content_hash", *(field.name for field in LABEL_FIELDS))}
    nothing = {field.name: pa.nulls(split.num_rows, field.type) for field in FACTS if field.name not in facts}
    status = pa.array([Status.OK.value] * split.num_rows).cast(FACTS.field("status").type)
    table = pa.table({**nothing, **facts, "status": status}).select(FACTS.names)
    groups = np.unique(np.array(split["group"].to_pylist()), return_inverse=True)[1].astype(np.int64)
    rows = split_table(table, groups, val_fraction, test_fraction, seed=0)
    stored = cache / f"pixels_{stored_px}.npy"
    if not stored.exists():
        cache.mkdir(parents=True, exist_ok=True)
        decoded = (decode(Path(uri).read_bytes(), 10**8).pixels for uri in rows["uri"].to_pylist())
        np.save(stored, np.stack([resize(image, stored_px) for image in decoded if image is not None]))
    return rows, np.load(stored, mmap_mode="r")


def part_samples(rows: pa.Table, pixels: np.ndarray, part: str, side: int) -> Samples:
    """The images of one part at the size that a network takes."""
    chosen = np.flatnonzero(np.array(rows["part"].to_pylist()) == part)
    images = np.stack([resize(np.asarray(pixels[row]), side) for row in chosen])
    ages = rows["age_years"].to_numpy()[chosen].astype(np.float32)
    return Samples(images, np.arange(len(chosen)), ages, rows["gender"].to_numpy()[chosen].astype(np.int64))


if __name__ == "__main__":
    main()
