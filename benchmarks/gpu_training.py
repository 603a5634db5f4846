"""Training on one device, without Ray: agegender's batches and step against a common training loop, and against the network alone.

    python benchmarks/gpu_training.py [--presets compact large] [--device cuda] [--images 8192] [--seconds 8]

All three train the same network with the same loss and optimizer in the same precision, on random pixels in memory:
- agegender: the package's batches, augmented on the device, loaded while the one before trains (model.feed.Feed), and the averaged weights.
- plain loop: a DataLoader whose processes augment each image with torchvision, pinned memory; no averaged weights.
- network alone: forward, backward and update on one batch that lies on the device.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from plain_training import network_config
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from agegender.model import trainer
from agegender.model.batches import Batch, Samples
from agegender.model.feed import Feed
from agegender.model.network import FaceNetwork, build_network
from agegender.model.optimizer import make_optimizer
from agegender.options import Precision
from agegender.recipe import PRESETS, Recipe

WARM_UP_STEPS = 20


def main() -> None:
    """Measure each preset in each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["compact", "large"], choices=["compact", "large"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--loader-processes", type=int, default=12, help="of the plain loop")
    given = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    for preset in given.presets:
        recipe, device = Recipe(**PRESETS[preset], epochs=10**6), torch.device(given.device)
        samples = random_samples(given.images, recipe.image_size_px)
        alone = images_per_s(on_one_batch(recipe, samples, device), recipe, device, given.seconds)
        ours = images_per_s(from_feed(recipe, samples, device), recipe, device, given.seconds, averaged=True)
        plain = images_per_s(
            from_loader(recipe, samples, device, given.loader_processes), recipe, device, given.seconds
        )
        row = {"preset": preset, "agegender": ours, "plain_loop": plain, "network_alone": alone}
        shares = {"of_plain_loop": round(ours / plain, 2), "of_network_alone": round(ours / alone, 2)}
        print(
            json.dumps({name: round(v) if isinstance(v, float) else v for name, v in row.items()} | shares), flush=True
        )


def random_samples(images: int, side: int) -> Samples:
    """Random pixels and labels."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    ages, genders = draw.integers(0, 100, images).astype(np.float32), draw.integers(0, 2, images)
    return Samples(pixels, np.arange(images), ages, genders)


def images_per_s(
    batches: Iterator[Batch], recipe: Recipe, device: torch.device, seconds: float, averaged: bool = False
) -> float:
    """Images/s of training on these batches, after warm-up."""
    torch.manual_seed(0)
    network: FaceNetwork = build_network(network_config(recipe)).to(device)
    average = trainer.averaged_copy(network, recipe) if averaged else network
    optimizer = make_optimizer(network, recipe)
    precision: Precision = trainer.resolve_precision(recipe.precision, device)
    done, began_s = 0, 0.0
    for step, batch in enumerate(batches):
        if step == WARM_UP_STEPS:
            wait_for(device)
            done, began_s = 0, time.monotonic()
        trainer.train_step(network, optimizer, batch, recipe, recipe.learning_rate, precision)
        trainer.update_average(average, network, recipe.ema_decay, step)
        done += len(batch.images)
        if step > WARM_UP_STEPS and time.monotonic() - began_s > seconds:
            break
    wait_for(device)
    return done / (time.monotonic() - began_s)


def wait_for(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def from_feed(recipe: Recipe, samples: Samples, device: torch.device) -> Iterator[Batch]:
    """As ``agegender train`` makes them."""
    feed = Feed(samples, recipe, 0, 1, 1, device, network_config(recipe).crop_size_px)
    epoch = 0
    while True:
        for micro_batch, _ in feed.micro_batches(epoch, 0):
            yield micro_batch.batch
        epoch += 1


def on_one_batch(recipe: Recipe, samples: Samples, device: torch.device) -> Iterator[Batch]:
    """The same augmented batch repeatedly, on the device."""
    first = next(from_feed(recipe, samples, device))
    while True:
        yield first


@dataclass
class VariedImages(Dataset[tuple[Tensor, float, int]]):
    """One image at a time, augmented with torchvision similarly to the recipe."""

    samples: Samples
    crop_px: int

    def __len__(self) -> int:
        """Of the samples."""
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Tensor, float, int]:
        """float32[3, C, C] in 0-255, age, gender."""
        from torchvision.transforms import v2

        if not hasattr(self, "_vary"):
            self._vary = v2.Compose(
                [
                    v2.RandomHorizontalFlip(),
                    v2.RandomAffine(
                        15, translate=(0.08, 0.08), scale=(0.8, 1.2), interpolation=v2.InterpolationMode.BILINEAR
                    ),
                    v2.CenterCrop(self.crop_px),
                    v2.ColorJitter(brightness=0.3, contrast=0.3),
                    v2.RandomErasing(0.3, scale=(0.01, 0.12), value=127),
                ]
            )
        image = torch.from_numpy(self.samples.pixels[row]).permute(2, 0, 1)
        return self._vary(image).float(), float(self.samples.age_years[row]), int(self.samples.gender[row])


def from_loader(recipe: Recipe, samples: Samples, device: torch.device, processes: int) -> Iterator[Batch]:
    """A common DataLoader."""
    loader = DataLoader(
        VariedImages(samples, network_config(recipe).crop_size_px),
        recipe.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=processes,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )
    while True:
        for images, ages, genders in loader:
            moved = images.to(device, non_blocking=True).to(memory_format=torch.channels_last)
            yield Batch(moved, ages.float().to(device), genders.to(device), 1.0, 1.0)


if __name__ == "__main__":
    main()
