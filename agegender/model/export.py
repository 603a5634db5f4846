"""Network, pre-processing and calibration in one ONNX graph: uint8 images in, predictions out."""

import copy
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import torch

from agegender.artifact import GRAPH_INPUT, GRAPH_OUTPUTS, Calibration
from agegender.model.calibrated import CalibratedNetwork
from agegender.model.network import FaceNetwork

OPSET = 17
"""Read by every ONNX Runtime since 1.12."""


def export_graph(network: FaceNetwork, calibration: Calibration, path: Path) -> None:
    """Write the ONNX graph with a dynamic batch size; ``artifact`` names its input and outputs.

    Filters and matrices are stored as float16 and cast to float32: half the file size, and no loss if the weights were
    rounded by ``checkpoint.round_weights``. Batch normalisation is not folded into them, because the folded weights would be
    rounded; runtimes fold it when they load the graph. The given network is not modified.

    Args:
        network: on any device, in any mode.
        calibration: part of the graph.
        path: file to write, atomically.
    """
    eval_copy = copy.deepcopy(network).to("cpu").eval()
    side = network.config.image_size_px
    names = GRAPH_OUTPUTS if network.config.age_head == "distribution" else GRAPH_OUTPUTS[:-1]
    partial = path.with_name(f"_{path.name}.partial")
    with warnings.catch_warnings():
        # the newer exporter needs another package (onnxscript) and takes much longer for the same graph
        warnings.simplefilter("ignore", DeprecationWarning)
        # one-sided padding is exported as a slice of constants, which runtimes fold when they load the graph
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        torch.onnx.export(
            CalibratedNetwork(eval_copy, calibration).eval(),
            (torch.zeros(2, side, side, 3, dtype=torch.uint8),),
            partial,
            input_names=[GRAPH_INPUT],
            output_names=list(names),
            dynamic_axes={name: {0: "batch"} for name in (GRAPH_INPUT, *names)},
            opset_version=OPSET,
            dynamo=False,
            # keeps the module's mode (eval) without folding batch normalisation
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    store_as_float16(partial)
    partial.replace(path)


def store_as_float16(path: Path) -> None:
    """Store the float32 filters and matrices of a graph as float16, each with a Cast to float32."""
    model = onnx.load(path)
    graph = model.graph
    casts = []
    for initializer in graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT or len(initializer.dims) < 2:
            continue
        name = initializer.name
        halves = onnx.numpy_helper.to_array(initializer).astype(np.float16)
        initializer.CopyFrom(onnx.numpy_helper.from_array(halves, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, path)
