"""Network, pre-processing and calibration in one ONNX graph: uint8 images in, predictions out."""

import copy
import warnings
from pathlib import Path

import torch

from agegender.artifact import GRAPH_INPUT, GRAPH_OUTPUTS, Calibration
from agegender.model.calibrated import CalibratedNetwork
from agegender.model.network import FaceNetwork

OPSET = 17
"""Read by every ONNX Runtime since 1.12."""


def export_graph(network: FaceNetwork, calibration: Calibration, path: Path) -> None:
    """Write the ONNX graph; its input and outputs are named in ``artifact``, the number of images is free.

    Batch normalisation is folded into the convolutions. The network that is handed over stays as it is.

    Args:
        network: on any device, in any mode.
        calibration: becomes part of the graph.
        path: file to write; a half-written one is never left under this name.
    """
    own = copy.deepcopy(network).to("cpu").eval()
    side = network.config.image_size_px
    names = GRAPH_OUTPUTS if network.config.age_head == "distribution" else GRAPH_OUTPUTS[:-1]
    partial = path.with_name(f"_{path.name}.partial")
    with warnings.catch_warnings():
        # the newer exporter needs a further package (onnxscript) and many times longer for the same graph
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            CalibratedNetwork(own, calibration).eval(),
            (torch.zeros(2, side, side, 3, dtype=torch.uint8),),
            partial,
            input_names=[GRAPH_INPUT],
            output_names=list(names),
            dynamic_axes={name: {0: "batch"} for name in (GRAPH_INPUT, *names)},
            opset_version=OPSET,
            dynamo=False,
        )
    partial.replace(path)
