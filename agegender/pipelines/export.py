"""``agegender export``: write the ONNX graph of a model as one file."""

import logging
from typing import Any

from agegender.artifact import GRAPH_FILE, GRAPH_INPUT, GRAPH_OUTPUTS
from agegender.config import ExportConfig
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.storage import files

logger = logging.getLogger(__name__)


def run_export(config: ExportConfig) -> dict[str, Any]:
    """Copy the verified graph of a model to ``config.output``.

    Raises:
        InputError: the model is missing, damaged or not of this package.
    """
    model = localize_model(model_address(config.model))
    info = model.info
    output = files.absolute(config.output)
    files.write_bytes(output, (model.folder / GRAPH_FILE).read_bytes())
    side = info.network.image_size_px
    outputs = [name for name in GRAPH_OUTPUTS if name != "age_probabilities" or info.network.age_head == "distribution"]
    return {
        "output": output,
        "model_id": info.model_id,
        "input": f"{GRAPH_INPUT}: uint8[B, {side}, {side}, 3], RGB",
        "outputs": ", ".join(outputs),
        "sha256": info.files[GRAPH_FILE],
    }
