"""Speed and accuracy of a model in float32 and int8, and of other ways to quantise it, in turn in one run.

    python benchmarks/precisions.py --model out/train/model --input UTKFace/ [--count 2000] [--rounds 5] [--only 3]

One thread, images per second of CPU time, so that other load on the machine counts little; medians over the rounds, each of which
runs every way once. Accuracy is that of validation images, those that the model was calibrated on. The model may have no int8 graph:
all of them are made here, in a temporary folder. Prints Markdown.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from add_int8 import add_arguments, seen_images
from onnxruntime.quantization import CalibrationMethod

from agegender.artifact import GRAPH_FILE, GRAPH_OUTPUTS
from agegender.model.quantization import BACKBONE, QUANTISED, fold, quantize_graph
from agegender.processor import is_faster_in_bfloat16
from agegender.scoring import cpu
from agegender.scoring.load import open_model

BATCH = 64
TIMED_IMAGES = 256
Floats = npt.NDArray[np.float32]
Run = Callable[[npt.NDArray[np.uint8]], Sequence[Floats]]


def main() -> None:
    """Make the graphs, measure them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--count", type=int, default=2000, help="validation images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=int, help="only so many of the ways, the first of the table")
    given = parser.parse_args()
    info = open_model(given.model)
    crops, val = seen_images(given.model, given.input, given.faces or ["none"], given.count)
    names = GRAPH_OUTPUTS if info.network.age_head == "distribution" else GRAPH_OUTPUTS[:-1]
    shape = (BATCH, info.network.image_size_px, info.network.image_size_px, 3)
    with tempfile.TemporaryDirectory() as folder:
        makers = list(_ways(given.model / GRAPH_FILE, crops, Path(folder), shape, names).items())[: given.only]
        ways = {name: make() for name, make in makers}
    timed = val.pixels[np.arange(TIMED_IMAGES) % len(val)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, run in ways.items():
            seconds[name].append(_cpu_seconds(run, timed))
    rates = {name: TIMED_IMAGES / median(each) for name, each in seconds.items()}
    print(f"{len(crops)} images to calibrate with, {len(val)} to compare on\n")
    print("| | images/s | against float32 | MAE, years | genders right | mean change of age, years | genders changed |")
    print("|---|---|---|---|---|---|---|")
    exact: tuple[Floats, npt.NDArray[np.bool_]] | None = None
    for name, run in ways.items():
        age_years, is_female = _score(run, val.pixels)
        exact = exact or (age_years, is_female)
        mae = np.nanmean(np.abs(age_years - val.age_years))
        right = np.mean(is_female[val.gender >= 0] == (val.gender[val.gender >= 0] == 1))
        changed, flips = np.abs(age_years - exact[0]).mean(), int((is_female != exact[1]).sum())
        ratio = rates[name] / next(iter(rates.values()))
        print(
            f"| {name} | {rates[name]:.0f} | {ratio:.2f} | {mae:.3f} | {100 * right:.2f} % | {changed:.3f} | {flips} |"
        )


def _ways(
    graph: Path, crops: npt.NDArray[np.uint8], folder: Path, shape: tuple[int, ...], names: Sequence[str]
) -> dict[str, Callable[[], Run]]:
    """What is compared, by its name; the first is what the others are compared to."""

    def quantised(name: str, **changed: Any) -> Path:
        path = folder / f"{name}.onnx"
        quantize_graph(graph, crops, path, **changed)
        return path

    def whole_backbone() -> list[str]:
        fold(graph, folder / "folded.onnx")
        nodes = onnx.load(folder / "folded.onnx").graph.node
        kinds = (*QUANTISED, "GlobalAveragePool")
        return [node.name for node in nodes if node.name.startswith(BACKBONE) and node.op_type in kinds]

    def in_openvino(path: Path) -> Run:
        return cpu._in_int8(path, shape, 1, names)

    ways: dict[str, Callable[[], Run]] = {
        "float32, ONNX Runtime": lambda: cpu._in_float32(graph, shape, 1, names),
        "int8, OpenVINO": lambda: in_openvino(quantised("kept")),
        "the same graph, ONNX Runtime": lambda: cpu._in_float32(folder / "kept.onnx", shape, 1, names),
        "weights of 8 bits": lambda: in_openvino(quantised("full", reduce_range=False)),
        "first layer and pool in int8, too": lambda: in_openvino(quantised("all", nodes_to_quantize=whole_backbone())),
        "99.99 % of the values": lambda: in_openvino(
            quantised(
                "percentile",
                calibrate_method=CalibrationMethod.Percentile,
                extra_options={"CalibPercentile": 99.99},
            )
        ),
    }
    if is_faster_in_bfloat16():
        ways["bfloat16, OpenVINO"] = lambda: cpu._in_bfloat16(graph, shape, 1, names)
    return ways


def _score(run: Run, crops: npt.NDArray[np.uint8]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Age and whether female, of each crop."""
    whole = np.concatenate([crops, np.zeros((-len(crops) % BATCH, *crops.shape[1:]), np.uint8)])
    parts = [run(np.ascontiguousarray(whole[start : start + BATCH])) for start in range(0, len(whole), BATCH)]
    ages, females = (np.concatenate([part[i] for part in parts])[: len(crops)] for i in (0, 3))
    return ages, females >= 0.5


def _cpu_seconds(run: Run, crops: npt.NDArray[np.uint8]) -> float:
    started_s = time.process_time()
    _score(run, crops)
    return time.process_time() - started_s


if __name__ == "__main__":
    main()
