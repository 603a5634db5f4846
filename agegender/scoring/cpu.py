"""Score on CPUs: with ONNX Runtime in float32, with OpenVINO in bfloat16 or int8. Starts fast and does not import torch."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

from agegender import processor
from agegender.artifact import GRAPH_FILE, GRAPH_INPUT, GRAPH_OUTPUTS, INT8_GRAPH_FILE, ModelInfo
from agegender.errors import InputError
from agegender.options import ScoringPrecision, ScoringPrecisionOrAuto
from agegender.scoring.load import LocalModel, check_precision
from agegender.scoring.predictions import Floats, Predictions, score_in_batches

__all__ = ["CpuScorer", "Predictions"]


class CpuScorer:
    """One loaded model. Not thread-safe; load one per process."""

    info: ModelInfo
    """The content of ``model.json``."""

    image_size_px: int
    """Side of the input images."""

    precision: ScoringPrecision
    """Of the network's computation."""

    def __init__(
        self,
        model: LocalModel | Path,
        threads: int = 1,
        batch_size: int = 64,
        precision: ScoringPrecisionOrAuto = "float32",
    ) -> None:
        """Load the graph of a model.

        Args:
            model: an open model, or the folder that training wrote, which is verified.
            threads: of the forward pass.
            batch_size: images per forward pass.
            precision: of the network; heads, readout and calibration are always float32.

        Raises:
            ConfigError: int8 is asked for, and the model has no int8 graph.
            InputError: the model is missing, damaged, not of this package, or its graph cannot be run.
        """
        model = LocalModel.open(model)
        self.info = model.info
        self.image_size_px = self.info.network.image_size_px
        self._batch_size = batch_size
        self._has_distribution = self.info.network.age_head == "distribution"
        names = GRAPH_OUTPUTS if self._has_distribution else GRAPH_OUTPUTS[:-1]
        check_precision(self.info, precision, str(model.folder))
        self.precision = resolve_precision(self.info, precision)
        load = {"float32": _in_float32, "bfloat16": _in_bfloat16, "int8": _in_int8}[self.precision]
        graph = model.folder / (INT8_GRAPH_FILE if self.precision == "int8" else GRAPH_FILE)
        self._run = load(graph, (batch_size, self.image_size_px, self.image_size_px, 3), threads, names)

    def score(self, images: npt.NDArray[np.uint8]) -> Predictions:
        """Predict; the result of an image does not depend on the other images, bit for bit.

        Args:
            images: uint8[N, S, S, 3] RGB, S = ``image_size_px``; N may be 0.

        Raises:
            ValueError: images of another shape or type.
        """
        return score_in_batches(images, self.image_size_px, self._batch_size, self._has_distribution, self._run)


Run = Callable[[npt.NDArray[np.uint8]], Sequence[Floats]]
"""Maps a batch, uint8[B, S, S, 3], to the graph's outputs, float32[B, ...] each."""


def _in_float32(path: Path, shape: tuple[int, ...], threads: int, names: Sequence[str]) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    # a spinning thread would take the core from the decoder
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (
        runtime_errors.Fail,
        runtime_errors.InvalidArgument,
        runtime_errors.InvalidGraph,
        runtime_errors.InvalidProtobuf,
        runtime_errors.NotImplemented,
    ) as error:
        raise InputError(
            f"{path}: ONNX Runtime {onnxruntime.__version__} cannot run this graph ({error}); "
            "copy the model folder again, or update onnxruntime"
        ) from error
    inputs = {each.name: (each.type, list(each.shape[1:])) for each in session.get_inputs()}
    outputs = [each.name for each in session.get_outputs()]
    if inputs != {GRAPH_INPUT: ("tensor(uint8)", list(shape[1:]))} or outputs != list(names):
        raise InputError(
            f"{path}: not the graph that model.json describes: takes {inputs}, gives {outputs}; "
            "copy the whole model folder again, or retrain"
        )
    return lambda batch: session.run(names, {GRAPH_INPUT: batch})


def resolve_precision(info: ModelInfo, precision: ScoringPrecisionOrAuto) -> ScoringPrecision:
    """What ``auto`` means for a model on this machine's CPU.

    bfloat16 comes first where the CPU is fast in it, because nobody has measured int8 there; then int8, if the model has an int8
    graph that costs no accuracy (``Int8Comparison.is_close``).
    """
    if precision != "auto":
        return precision
    if processor.is_faster_in_bfloat16():
        return "bfloat16"
    can_int8 = INT8_GRAPH_FILE in info.files and info.int8 is not None and info.int8.is_close
    return "int8" if can_int8 and processor.is_faster_in_int8() else "float32"


def _in_bfloat16(path: Path, shape: tuple[int, ...], threads: int, names: Sequence[str]) -> Run:
    from agegender.scoring import openvino_graphs  # OpenVINO takes 0.5 s to import, which float32 does not need

    return openvino_graphs.Bfloat16Graph(path, shape, threads, names).run


def _in_int8(path: Path, shape: tuple[int, ...], threads: int, names: Sequence[str]) -> Run:
    from agegender.scoring import openvino_graphs  # as above

    return openvino_graphs.Int8Graph(path, shape, threads, names).run
