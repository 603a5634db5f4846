"""What each step of scoring is worth, on and off, on one thread: decoding and the forward pass, and what they do to the predictions.

    python benchmarks/steps.py --input UTKFace/ [--large out/large] [--model out/train/model] [--images 512] [--rounds 5]

``--large`` is a folder of large photographs (``enlarge.py``). The variants run in turn, round after round, and the best of
each counts, by CPU time, which others on the machine do not lengthen. Prints Markdown.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from agegender import released
from agegender.data.images import Pixels, decode, resize
from agegender.model.calibrated import CalibratedNetwork
from agegender.model.checkpoint import load_network
from agegender.processor import is_faster_in_bfloat16
from agegender.scoring.cpu import CpuScorer

BATCH = 64
MAX_PIXELS = 10**8

Scores = tuple[np.ndarray, np.ndarray]
"""Ages in years and probabilities of female."""


def main() -> None:
    """Measure and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of .jpg face crops")
    parser.add_argument("--large", type=Path, help="folder of large .jpg photographs")
    parser.add_argument("--model", type=Path, default=released.FOLDER)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scorer = CpuScorer(given.model, threads=1, batch_size=BATCH)
    side = scorer.image_size_px
    for name, folder, count in (("crops", given.input, given.images), ("large", given.large, 16)):
        if folder is not None:
            files = _some(folder, count)
            print(f"\nDecoding {name} to {side} px, {len(files)} files\n")
            ways = {way: _each(decoder, files) for way, decoder in _decoders(side).items()}
            _table(_in_turn(ways, given.rounds, len(files)), {way: _score(scorer, run()) for way, run in ways.items()})
    crops = np.stack([_ours(data, side) for data in _some(given.input, given.images)])
    print(f"\nForward pass, {len(crops)} crops\n")
    forwards: dict[str, Callable[[], Any]] = {way: partial(run, crops) for way, run in _forwards(given.model).items()}
    _table(_in_turn(forwards, given.rounds, len(crops)), {way: run() for way, run in forwards.items()})


def _some(folder: Path, count: int) -> list[bytes]:
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".jpg")
    return [path.read_bytes() for path in paths[:: max(1, len(paths) // count)][:count]]


def _decoders(side: int) -> dict[str, Callable[[bytes], Pixels]]:
    return {
        "Pillow, whole": lambda data: resize(np.asarray(Image.open(BytesIO(data)).convert("RGB")), side),
        "libjpeg-turbo, whole": lambda data: resize(_pixels(data, None), side),
        "libjpeg-turbo, no larger than needed": lambda data: _ours(data, side),
    }


def _ours(data: bytes, side: int) -> Pixels:
    return resize(_pixels(data, side), side)


def _pixels(data: bytes, enough_px: int | None) -> Pixels:
    pixels = decode(data, MAX_PIXELS, enough_px).pixels
    assert pixels is not None
    return pixels


def _each(decoder: Callable[[bytes], Pixels], files: list[bytes]) -> Callable[[], np.ndarray]:
    return lambda: np.stack([decoder(data) for data in files])


def _score(scorer: CpuScorer, crops: np.ndarray) -> Scores:
    predictions = scorer.score(crops)
    return predictions.age_years, predictions.female_probability


def _forwards(model: Path) -> dict[str, Callable[[np.ndarray], Scores]]:
    """From the plainest to the fastest."""
    found: dict[str, Callable[[np.ndarray], Scores]] = {}
    for name, order, autocast in (
        ("torch, eager, float32", torch.contiguous_format, False),
        ("the same, channels last", torch.channels_last, False),
        ("the same, channels last, bfloat16", torch.channels_last, True),
    ):
        found[name] = _torch(model, order, autocast)
    for size in (1, 4, 8, 16, 64, 256):
        scorer = CpuScorer(model, threads=1, batch_size=size)
        found[f"ONNX Runtime, float32, batches of {size}"] = partial(_score, scorer)
    if is_faster_in_bfloat16():
        for size in (8, 16, 64):
            scorer = CpuScorer(model, threads=1, batch_size=size, precision="bfloat16")
            found[f"OpenVINO, bfloat16, batches of {size}"] = partial(_score, scorer)
    return found


def _torch(model: Path, order: torch.memory_format, autocast: bool) -> Callable[[np.ndarray], Scores]:
    network, info = load_network(model)
    whole = CalibratedNetwork(network, info.calibration).eval().to(memory_format=order)

    @torch.inference_mode()
    def run(crops: np.ndarray) -> Scores:
        predictions: list[list[np.ndarray]] = []
        for start in range(0, len(crops), BATCH):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                outputs = whole(torch.from_numpy(crops[start : start + BATCH]))
            predictions.append([outputs[place].float().numpy() for place in (0, 3)])
        ages, female = (np.concatenate(parts) for parts in zip(*predictions, strict=True))
        return ages, female

    return run


def _in_turn(ways: dict[str, Callable[[], Any]], rounds: int, images: int) -> dict[str, float]:
    """Images per second of CPU time of each, the best of the rounds."""
    best = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for name, run in ways.items():
            started_s = time.process_time()
            run()
            best[name] = max(best[name], images / (time.process_time() - started_s))
    return best


def _table(rates: dict[str, float], scores: dict[str, Scores]) -> None:
    (first, (ages, female)), *_ = scores.items()
    print("| | images/s | against the first | mean change of age, years | genders flipped |\n|---|---|---|---|---|")
    for name, (its_ages, its_female) in scores.items():
        change, flipped = np.abs(its_ages - ages).mean(), np.mean((its_female >= 0.5) != (female >= 0.5))
        row = (
            f"| {name} | {rates[name]:.0f} | {rates[name] / rates[first]:.2f} | {change:.4f} | {100 * flipped:.2f} % |"
        )
        print(row)


if __name__ == "__main__":
    main()
