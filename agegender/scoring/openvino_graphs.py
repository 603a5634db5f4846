"""Run a model's graphs with OpenVINO: in bfloat16 or int8, up to twice as fast as float32 on CPUs that are fast in it.

    bfloat16:  images -> [network, bfloat16] -> features -> [heads, readout, calibration, float32] -> predictions
    int8:      images -> the int8 graph, which says itself which of its layers are int8 -> predictions

For bfloat16 the graph is split because sums of probabilities would be rounded to three digits in it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agegender.errors import InputError
from agegender.scoring.predictions import Floats

# `import openvino` reports its use to its maker, and has no variable to turn that off; without this package it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # so that its import fails

import openvino  # noqa: E402
from openvino import opset13 as operations  # noqa: E402

HEAD = "/network/age_head/Gemm_output_0"
"""Name of the age head's output in the graph, from which its input is found."""


class Bfloat16Graph:
    """A loaded graph for batches of one shape. Not thread-safe.

    Args:
        path: ONNX graph that ``model.export`` wrote.
        shape: of a batch, [B, S, S, 3].
        threads: of the forward pass.
        outputs: names of the outputs of ``run``, in order.

    Raises:
        InputError: the file is missing or not such a graph.
    """

    def __init__(self, path: Path, shape: Sequence[int], threads: int, outputs: Sequence[str]) -> None:
        core = openvino.Core()
        try:
            lower, upper = (_read(core, path, shape) for _ in range(2))
            network = openvino.Model([_features(lower)], lower.get_parameters())
            features = _features(upper)
            parameter = operations.parameter(features.get_partial_shape(), np.float32)
            for reader in features.get_target_inputs():
                reader.replace_source_output(parameter.output(0))
            heads = openvino.Model([upper.output(name) for name in outputs], [parameter])
        except RuntimeError as error:
            raise _cannot_run(path, error) from error
        self._network = _compiled(core, network, threads, "bf16")
        self._heads = _compiled(core, heads, threads, "f32")

    def run(self, batch: npt.NDArray[np.uint8]) -> list[Floats]:
        """Score one batch, uint8[B, S, S, 3] -> float32[B, ...] each."""
        features = self._network.infer([batch])[0]
        return [np.array(output) for output in self._heads.infer([features]).to_tuple()]


class Int8Graph:
    """A loaded graph that ``model.quantization`` wrote, for batches of one shape. Not thread-safe.

    Args, Raises: as of ``Bfloat16Graph``.
    """

    def __init__(self, path: Path, shape: Sequence[int], threads: int, outputs: Sequence[str]) -> None:
        core = openvino.Core()
        try:
            whole = _read(core, path, shape)
            model = openvino.Model([whole.output(name) for name in outputs], whole.get_parameters())
        except RuntimeError as error:
            raise _cannot_run(path, error) from error
        self._model = _compiled(core, model, threads, "f32")

    def run(self, batch: npt.NDArray[np.uint8]) -> list[Floats]:
        """Score one batch, uint8[B, S, S, 3] -> float32[B, ...] each."""
        return [np.array(output) for output in self._model.infer([batch]).to_tuple()]


def _compiled(core: openvino.Core, model: openvino.Model, threads: int, precision: str) -> openvino.InferRequest:
    """A model ready to run; ``precision`` is that of its floating-point layers."""
    # Pinning would put the threads of several processes on the same cores.
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    return core.compile_model(model, "CPU", settings | {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()


def _cannot_run(path: Path, error: RuntimeError) -> InputError:
    return InputError(
        f"{path}: OpenVINO {openvino.__version__} cannot run this graph ({str(error).strip()[-300:]}). Score with "
        "--precision float32, or copy the model folder again"
    )


def _read(core: openvino.Core, path: Path, shape: Sequence[int]) -> openvino.Model:
    model = core.read_model(path)
    model.reshape(list(shape))
    return model


def _features(model: openvino.Model) -> openvino.Output:
    """The input of the heads: that of the MatMul from which ``HEAD`` is computed."""
    node = next((each for each in model.get_ops() if _has_output(each, HEAD)), None)
    while node is not None and node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node() if node.get_input_size() else None
    if node is None:
        raise RuntimeError(f"the graph has no node {HEAD}")
    return node.input_value(0)


def _has_output(node: openvino.Node, name: str) -> bool:
    return any(name in output.get_names() for output in node.outputs())
