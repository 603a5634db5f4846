"""Stub until the exporter lands."""

from pathlib import Path

from agegender.artifact import Calibration
from agegender.model.network import FaceNetwork


def export_graph(network: FaceNetwork, calibration: Calibration, path: Path) -> None:
    """Write the ONNX graph."""
    raise NotImplementedError
