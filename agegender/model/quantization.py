"""Quantise the graph of a model to 8 bits after training: weights and feature maps of its backbone, and nothing else.

The input's pixels, the first convolution (of mobilenet_v1 the first layers), the last pooling, the mean of two views, heads,
readout and calibration stay in float32: they take little time, and in 8 bits they would cost more accuracy than all layers
between them (docs/predictions.md, "Precision").
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from agegender.artifact import GRAPH_INPUT
from agegender.model.export import store_as_float16

BACKBONE = "/network/backbone/"
"""How the names of the backbone's nodes begin."""

QUANTISED = ("Conv", "Add", "Relu", "Clip", "MaxPool")
"""Operators that are quantised; a mean over the last map is none of them."""

ACTIVATIONS = ("Relu", "Clip")

EXACT_DEPTHWISE = 3
"""Depthwise convolutions of a network that consists of them that stay in float32, with all before them."""

BATCH_IMAGES = 32


def quantize_graph(graph: Path, images: npt.NDArray[np.uint8], path: Path, **changed: Any) -> None:
    """Write the int8 graph of a float32 graph, with the same input and outputs.

    Feature maps are 8 bits without sign, one scale each, from the smallest to the largest value that the calibration images give.
    Weights have one scale a channel and use 7 of their 8 bits: ONNX Runtime adds two products of 8 bits in 16 bits on AVX2, which
    would overflow, so that CPUs without VNNI would give other (and poor) results. With 7 bits all integer sums are exact in every
    runtime and on every CPU.

    Args:
        graph: that ``export.export_graph`` wrote.
        images: uint8[N, S, S, 3] RGB, of the training part, S as the graph takes it.
        path: file to write, atomically.
        changed: settings of ONNX Runtime's ``quantize_static`` in place of these; ``benchmarks/precisions.py`` compares some.

    Raises:
        ValueError: no image, or a graph without convolutions in its backbone.
    """
    if not len(images):
        raise ValueError("no image to calibrate the int8 graph with")
    partial = path.with_name(f"_{path.name}.partial")
    with tempfile.TemporaryDirectory() as folder, _quiet():
        folded = Path(folder) / "folded.onnx"
        fold(graph, folded)
        nodes = quantised_nodes(onnx.load(folded))
        if not nodes:
            raise ValueError(f"{graph}: no convolution between the first and the last of its backbone to quantise")
        settings: dict[str, Any] = {
            "quant_format": QuantFormat.QDQ,
            "per_channel": True,
            "reduce_range": True,
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "nodes_to_quantize": nodes,
            "calibrate_method": CalibrationMethod.MinMax,
        }
        quantize_static(folded, partial, _Images(images), **settings | changed)
    store_as_float16(partial)
    _forget_unused_domains(partial)
    partial.replace(path)


def quantised_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes to quantise: those of the backbone behind its first convolution and before its pool.

    Where the second is depthwise, as in mobilenet_v1, all up to the third depthwise one stay in float32: each of its channels sees
    one filter's output, and those differ too much in size for the one scale of a feature map. docs/speed.md, "int8", has what
    other numbers gave.
    """
    found = [node for node in model.graph.node if node.name.startswith(BACKBONE) and node.op_type in QUANTISED]
    convolutions = [node for node in found if node.op_type == "Conv"]
    if not convolutions:
        return []
    depthwise = [node for node in convolutions if _is_depthwise(node)]
    is_separable = convolutions[1:2] == depthwise[:1]
    last_exact = depthwise[:EXACT_DEPTHWISE][-1] if is_separable and depthwise else convolutions[0]
    behind = found[found.index(last_exact) + 1 :]
    activation = {node.name for node in behind if node.op_type in ACTIVATIONS and last_exact.output[0] in node.input}
    return [
        node.name for node in behind if node.name not in activation and not node.name.startswith(f"{BACKBONE}pool/")
    ]


def _is_depthwise(node: onnx.NodeProto) -> bool:
    return any(each.name == "group" and each.i > 1 for each in node.attribute)


class _Images(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
    """The calibration images in batches, as ONNX Runtime's quantisation reads them."""

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self._batches = (images[start : start + BATCH_IMAGES] for start in range(0, len(images), BATCH_IMAGES))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {GRAPH_INPUT: batch}


def fold(graph: Path, path: Path) -> None:
    """Write the graph with its norms folded into the convolutions and its weights in float32, as they can be quantised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _forget_unused_domains(path: Path) -> None:
    """ONNX Runtime writes that a graph needs all of its own operators, which other runtimes would refuse."""
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node}
    needed = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(needed)
    onnx.save(model, path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to prepare the graph, which ``fold`` has done."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
