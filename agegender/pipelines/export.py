"""``agegender export``: write the ONNX graph of a model as one file."""

import logging
from typing import Any

from agegender.artifact import GRAPH_FILE, GRAPH_INPUT, GRAPH_OUTPUTS, INT8_GRAPH_FILE
from agegender.config import ExportConfig
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.scoring.load import check_precision
from agegender.storage import files

logger = logging.getLogger(__name__)


def run_export(config: ExportConfig) -> dict[str, Any]:
    """Copy the verified graph of a model, in the precision asked for, to ``config.output``.

    Raises:
        ConfigError: int8 is asked for, and the model has no int8 graph.
        InputError: the model is missing, damaged or not of this package.
    """
    model = localize_model(model_address(config.model))
    info = model.info
    check_precision(info, config.precision, config.model)
    graph = INT8_GRAPH_FILE if config.precision == "int8" else GRAPH_FILE
    output = files.absolute(config.output)
    files.write_bytes(output, (model.folder / graph).read_bytes())
    side = info.network.image_size_px
    outputs = [name for name in GRAPH_OUTPUTS if name != "age_probabilities" or info.network.age_head == "distribution"]
    return {
        "output": output,
        "model_id": info.model_id,
        "precision": config.precision,
        "input": f"{GRAPH_INPUT}: uint8[B, {side}, {side}, 3], RGB",
        "outputs": ", ".join(outputs),
        "sha256": info.files[graph],
    }
