"""What a network costs before anybody trains it: work, parameters, and images/s on one core in float32 and int8.

    python benchmarks/networks.py [--rounds 3]

Untrained weights, random images, one thread, images per second of CPU time, so that other load on the machine counts little;
medians over the rounds, each of which runs every network once. int8 is what `agegender train` would write, run by OpenVINO; of
torchvision's networks it writes none. Prints Markdown; the last two columns are against the first row's float32.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from agegender.artifact import GRAPH_OUTPUTS, Calibration, NetworkConfig
from agegender.model.export import export_graph
from agegender.model.network import FaceNetwork, build_network
from agegender.model.quantization import quantize_graph
from agegender.pipelines.train.int8 import has_int8
from agegender.scoring import cpu

BATCH = 16
TIMED_BATCHES = 12
CANDIDATES = (
    ("compact", 112, 2),
    ("compact", 112, 1),
    ("compact", 144, 1),
    ("mobilenet_v1", 112, 1),
    ("mobilenet_v1", 128, 1),
    ("mobilenet_v1", 144, 1),
    ("mobilenet_v1", 176, 1),
    ("mobilenet_v1", 176, 2),
    ("mobilenet_v3_small", 128, 1),
    ("mobilenet_v3_large", 128, 1),
    ("efficientnet_b0", 128, 1),
    ("resnet18", 112, 1),
)
"""Backbone, side of its input in pixels, views."""


@dataclass(frozen=True)
class Candidate:
    """One row of the table."""

    name: str
    million_macs: float
    million_parameters: float
    images: npt.NDArray[np.uint8]
    run: cpu.Run
    run_int8: cpu.Run | None


def main() -> None:
    """Build all networks, measure them in turn, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        candidates = [build(Path(folder), *each) for each in CANDIDATES]
    runs: dict[tuple[str, str], tuple[cpu.Run, npt.NDArray[np.uint8]]] = {}
    for each in candidates:
        runs[each.name, "float32"] = each.run, each.images
        if each.run_int8 is not None:
            runs[each.name, "int8"] = each.run_int8, each.images
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for _ in range(given.rounds):
        for key, (run, images) in runs.items():
            seconds[key].append(cpu_seconds(run, images))
    rates = {key: BATCH * TIMED_BATCHES / median(each) for key, each in seconds.items()}
    first = rates[candidates[0].name, "float32"]
    print("| network | million multiply-adds | million parameters | float32, images/s | int8 | float32, ratio | int8 |")
    print("|---|---|---|---|---|---|---|")
    for each in candidates:
        exact, quick = rates[each.name, "float32"], rates.get((each.name, "int8"))
        print(
            f"| {each.name} | {each.million_macs:.0f} | {each.million_parameters:.1f} | {exact:.0f} | "
            f"{'' if quick is None else f'{quick:.0f}'} | {exact / first:.2f} | "
            f"{'' if quick is None else f'{quick / first:.2f}'} |"
        )


def build(folder: Path, backbone: str, side_px: int, views: int) -> Candidate:
    """An untrained network, exported and loaded.

    Args:
        folder: for its graphs.
        backbone: as of ``NetworkConfig``.
        side_px: of its input.
        views: 1 or 2.
    """
    torch.manual_seed(0)
    config = NetworkConfig.model_validate(
        {"backbone": backbone, "age_head": "distribution", "image_size_px": side_px, "views": views}
    )
    network = build_network(config).eval()
    images = np.random.default_rng(0).integers(0, 256, (BATCH, side_px, side_px, 3), dtype=np.uint8)
    graph, quick = folder / "model.onnx", folder / "int8.onnx"
    export_graph(network, Calibration(age_low_factors=[1.0] * 121, age_high_factors=[1.0] * 121), graph)
    run_int8 = None
    if has_int8(backbone):
        quantize_graph(graph, images, quick)
        run_int8 = cpu._in_int8(quick, images.shape, 1, GRAPH_OUTPUTS)
    return Candidate(
        f"{backbone}, {side_px} px, {views} view{'s' if views > 1 else ''}",
        million_macs(network, side_px),
        sum(parameter.numel() for parameter in network.parameters()) / 1e6,
        images,
        cpu._in_float32(graph, images.shape, 1, GRAPH_OUTPUTS),
        run_int8,
    )


@torch.no_grad()
def million_macs(network: FaceNetwork, side_px: int) -> float:
    """Multiply-adds of the convolutions and matrices for one image, of both views if there are two, in millions."""
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        places = output.shape[0] * (output.shape[2] * output.shape[3] if output.ndim == 4 else 1)
        total += places * module.weight.numel()

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    removers: list[Callable[[], None]] = [layer.register_forward_hook(count).remove for layer in layers]
    network(torch.zeros(1, 3, side_px, side_px))
    for remove in removers:
        remove()
    return total / 1e6


def cpu_seconds(run: cpu.Run, images: npt.NDArray[np.uint8]) -> float:
    """CPU time of ``TIMED_BATCHES`` batches."""
    started_s = time.process_time()
    for _ in range(TIMED_BATCHES):
        run(images)
    return time.process_time() - started_s


if __name__ == "__main__":
    main()
