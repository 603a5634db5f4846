"""Images/s of a GPU with decoding processes on the CPUs, as in predict --use-gpu but without Ray.

    python benchmarks/gpu_scoring.py [--backbones compact resnet50] [--decoders 2 4 8 16] [--device cuda]

Files are drawn faces of 200 px, decoded and resized as predict does it; batches cross in shared memory, four calls are under
way on the device at once (gpus.CALLS_AT_ONCE). The compact model is the released one, others have random weights. Beside it:
the network alone, on one batch that lies on the device. The share of busy time is nvidia-smi's, sampled.
"""

import argparse
import json
import multiprocessing
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agegender import released
from agegender.artifact import Calibration, NetworkConfig
from agegender.data.images import decode, resize
from agegender.data.synthetic import draw_sample

if TYPE_CHECKING:
    from agegender.scoring.gpu import TorchScorer

# torch is imported where it is used: each of the decoding processes imports this file, and needs none of it.

CALLS_AT_ONCE = 4
"""As ``pipelines.gpus`` has it, which cannot be imported without Ray."""

SLOTS = 32
"""Batches in shared memory: read, or waiting to be scored."""

SHAPES = {
    "resnet50": NetworkConfig(
        backbone="resnet50", age_head="distribution", image_size_px=256, crop_fraction=0.875, views=2
    )
}
"""Of the networks that are not released; 224 px of 256, two views, as the released one has."""


def main() -> None:
    """Measure each network with each number of decoders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["compact", *SHAPES], choices=["compact", *SHAPES])
    parser.add_argument("--decoders", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--files", type=int, default=512)
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    from agegender.scoring.gpu import TorchScorer

    context = multiprocessing.get_context("spawn")
    with context.Pool() as pool:
        files = [data for _, data in pool.starmap(draw_sample, [(index, 0, 200) for index in range(given.files)])]
    for backbone in given.backbones:
        with model_folder(backbone) as folder:
            alone = network_alone(folder, given.device, given.batch_size, given.seconds)
            print(json.dumps({"backbone": backbone, "network_alone_images_per_s": round(alone)}), flush=True)
            scorer = TorchScorer(folder, given.device, given.batch_size)
            for decoders in given.decoders:
                speed, busy = fed(scorer, files, decoders, given.batch_size, given.seconds, context)
                row = {
                    "decoders": decoders,
                    "images_per_s": round(speed),
                    "of_the_network_alone": round(speed / alone, 3),
                }
                print(json.dumps({"backbone": backbone, **row, "gpu_busy": busy}), flush=True)


@contextmanager
def model_folder(backbone: str) -> Iterator[Path]:
    """The released model, or one of random weights."""
    if backbone == "compact":
        yield released.FOLDER
        return
    from agegender.model.checkpoint import save_model
    from agegender.model.network import build_network

    shape, none = SHAPES[backbone], np.zeros(0, np.uint64)
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder), build_network(shape).eval(), Calibration(), none, none, "", {}, {})
        yield Path(folder)


def network_alone(folder: Path, device: str, batch_size: int, seconds: float) -> float:
    """Images/s on one batch on the device, in the precision of scoring."""
    import torch

    from agegender.model.calibrated import CalibratedNetwork
    from agegender.model.checkpoint import load_network

    network, info = load_network(folder)
    model = CalibratedNetwork(network, info.calibration).eval().to(device).to(memory_format=torch.channels_last)
    side = info.network.image_size_px
    images = torch.randint(0, 256, (batch_size, side, side, 3), dtype=torch.uint8, device=device)
    on_gpu = images.device.type == "cuda"
    for measured in (False, True):
        began_s, done = time.monotonic(), 0
        while time.monotonic() - began_s < (seconds if measured else 1.0):
            for _ in range(10 if on_gpu else 1):
                with torch.inference_mode(), torch.autocast(images.device.type, torch.bfloat16, enabled=on_gpu):
                    model(images)
                done += batch_size
            if on_gpu:
                torch.cuda.synchronize()
        spent_s = time.monotonic() - began_s
    return done / spent_s


def fed(
    scorer: "TorchScorer", files: list[bytes], decoders: int, batch_size: int, seconds: float, context: Any
) -> tuple[float, float | None]:
    """Images/s and the share of busy time of the GPU, once everything runs."""
    import torch

    side = scorer.image_size_px
    slots = [SharedMemory(create=True, size=batch_size * side * side * 3) for _ in range(SLOTS)]
    free, full = context.Queue(), context.Queue()
    for index in range(SLOTS):
        free.put(index)
    names = [slot.name for slot in slots]
    processes = [
        context.Process(target=decode_for_ever, args=(files, names, free, full, batch_size, side), daemon=True)
        for _ in range(decoders)
    ]
    done, ended = [0] * CALLS_AT_ONCE, threading.Event()
    views = [np.ndarray((batch_size, side, side, 3), np.uint8, slot.buf) for slot in slots]

    def call(number: int) -> None:
        while not ended.is_set():
            try:
                index = full.get(timeout=0.2)
            except queue.Empty:
                continue
            scorer.score(views[index])
            free.put(index)
            done[number] += batch_size

    threads = [threading.Thread(target=call, args=(number,)) for number in range(CALLS_AT_ONCE)]
    try:
        for each in [*processes, *threads]:
            each.start()
        while (
            sum(done) < 2 * SLOTS * batch_size
        ):  # until the batches that were decoded before the GPU was ready are used up
            time.sleep(0.05)
        began_s, before, busy = time.monotonic(), sum(done), []
        while time.monotonic() - began_s < seconds:
            time.sleep(0.2)
            if torch.cuda.is_available():
                busy.append(torch.cuda.utilization() / 100)
        speed = (sum(done) - before) / (time.monotonic() - began_s)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        for process in processes:
            process.kill()
            process.join()
        del views[:]
        for slot in slots:
            slot.close()
            slot.unlink()
    return speed, round(float(np.mean(busy)), 2) if busy else None


def decode_for_ever(files: list[bytes], names: list[str], free: Any, full: Any, batch_size: int, side: int) -> None:
    """One decoding process: fill free slots and pass them on."""
    slots = [SharedMemory(name) for name in names]
    position = 0
    while True:
        index = free.get()
        batch = np.ndarray((batch_size, side, side, 3), np.uint8, slots[index].buf)
        for row in range(batch_size):
            pixels = decode(files[position % len(files)], 10**8).pixels
            assert pixels is not None
            batch[row] = resize(pixels, side)
            position += 1
        full.put(index)


if __name__ == "__main__":
    main()
