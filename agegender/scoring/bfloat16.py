"""A model's graph in bfloat16, by OpenVINO: on CPUs that are made for it about twice as fast as in float32.

    images -> [network, bfloat16] -> features -> [heads, readout, calibration, float32] -> predictions

Cut in two, because sums of probabilities would be rounded to three digits otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
from openvino import opset13 as operations

from agegender.errors import InputError
from agegender.scoring.predictions import Floats

HEAD = "/network/age_head/Gemm_output_0"
"""What the graph calls the result of the age head, from where its input is found."""


class Bfloat16Graph:
    """A loaded graph for batches of one shape. Not safe to share between threads that score at once.

    Args:
        path: ONNX graph that ``model.export`` wrote.
        shape: of a batch, [B, S, S, 3].
        threads: of the forward pass.
        outputs: names of what ``run`` gives, in this order.

    Raises:
        InputError: no such graph.
    """

    def __init__(self, path: Path, shape: Sequence[int], threads: int, outputs: Sequence[str]) -> None:
        core = openvino.Core()
        try:
            below, above = (_read(core, path, shape) for _ in range(2))
            network = openvino.Model([_features(below)], below.get_parameters())
            features = _features(above)
            given = operations.parameter(features.get_partial_shape(), np.float32)
            for reader in features.get_target_inputs():
                reader.replace_source_output(given.output(0))
            heads = openvino.Model([above.output(name) for name in outputs], [given])
        except RuntimeError as error:
            raise InputError(
                f"{path}: OpenVINO {openvino.__version__} cannot run this graph ({str(error).strip()[-300:]}). Score with "
                "--precision float32, or export it again with this release"
            ) from error
        # Pinned threads of several processes would all sit on the same core.
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        self._network, self._heads = (
            core.compile_model(part, "CPU", settings | {"INFERENCE_PRECISION_HINT": precision}).create_infer_request()
            for part, precision in ((network, "bf16"), (heads, "f32"))
        )

    def run(self, batch: npt.NDArray[np.uint8]) -> list[Floats]:
        """Score one batch, uint8[B, S, S, 3] -> float32[B, ...] each."""
        features = self._network.infer([batch])[0]
        return [np.array(output) for output in self._heads.infer([features]).to_tuple()]


def _read(core: openvino.Core, path: Path, shape: Sequence[int]) -> openvino.Model:
    model = core.read_model(path)
    model.reshape(list(shape))
    return model


def _features(model: openvino.Model) -> openvino.Output:
    """What the heads take: the input of the first product above ``HEAD``."""
    node = next((each for each in model.get_ops() if _gives(each, HEAD)), None)
    while node is not None and node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node() if node.get_input_size() else None
    if node is None:
        raise RuntimeError(f"it has no {HEAD}")
    return node.input_value(0)


def _gives(node: openvino.Node, name: str) -> bool:
    return any(name in output.get_names() for output in node.outputs())
