"""Add the int8 graph to a model folder that was trained before there was one, without training it again.

    python benchmarks/add_int8.py --model out/train/model --input UTKFace/ [--faces none --input photographs/ --faces detect]

``agegender train`` writes the graph itself. This finds the images that the model has seen, by their content: some of those that the
weights were trained on calibrate the graph, and those that the model was calibrated on say what int8 costs. Writes
model.int8.onnx and model.json; prints what it costs.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa

from agegender.artifact import image_keys
from agegender.config import EvaluateConfig
from agegender.data.duplicates import content_hash
from agegender.data.images import Pixels, decode, resize
from agegender.model.batches import Samples
from agegender.pipelines.runtime.detector import labelled_face_searches
from agegender.pipelines.source.fetch import fetch
from agegender.pipelines.source.listing import list_source
from agegender.pipelines.train.int8 import CALIBRATION_IMAGES, add_int8
from agegender.pipelines.train.samples import samples_of
from agegender.schema import SOURCE
from agegender.scoring.load import open_model, training_images, weight_training_images


def main() -> None:
    """Find the images, add the graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    given = parser.parse_args()
    calibration_images, val = seen_images(given.model, given.input, given.faces or ["none"])
    print(f"{len(calibration_images)} images to calibrate with, {len(val)} to compare on")
    info = add_int8(given.model, calibration_images, val)
    print(info.int8.model_dump_json(indent=1) if info.int8 else "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model and the images that it has seen."""
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument(
        "--input", action="append", required=True, help="labelled images, as agegender evaluate takes them"
    )
    parser.add_argument(
        "--faces",
        action="append",
        choices=("none", "detect"),
        help="as in the training of the model: once, or per input",
    )


def seen_images(model: Path, inputs: list[str], faces: list[str], count: int | None = None) -> tuple[Pixels, Samples]:
    """Images of a set that a model has seen in its training.

    Args:
        model: a model folder.
        inputs: labelled sources.
        faces: ``none`` or ``detect``, one for all inputs or one for each.
        count: at most so many images that the model was calibrated on, drawn at random; None: all.

    Returns:
        Some images that its weights were trained on, uint8[N, S, S, 3], and those that it was calibrated on.
    """
    learnt = weight_training_images(model)
    calibrated, rng = np.setdiff1d(training_images(model), learnt), np.random.default_rng(0)
    wanted = set(rng.permutation(learnt)[:CALIBRATION_IMAGES].tolist())
    wanted_val = set(rng.permutation(calibrated)[:count].tolist())
    config = EvaluateConfig.model_validate({"input": inputs, "output": "none", "faces": faces})
    side_px = open_model(model).network.image_size_px
    cutter = labelled_face_searches(config).croppers(side_px)
    crops: list[Pixels] = []
    val: dict[int, tuple[Pixels, dict[str, object]]] = {}
    for table in list_source(config):
        for row, image in zip(table.to_pylist(), fetch(table, config.limits()), strict=True):
            key = -1 if image.data is None else int(image_keys([content_hash(image.data)])[0])
            if image.data is None or (key not in wanted and (key not in wanted_val or key in val)):
                continue
            pixels, cut = decode(image.data, config.max_image_pixels).pixels, cutter(row[SOURCE.name])
            crop = None if pixels is None else resize(pixels, side_px) if cut is None else cut(pixels)
            if crop is not None and key in wanted:
                crops.append(crop)
                wanted.discard(key)
            elif crop is not None:
                val[key] = crop, row
    if not crops or not val:
        raise SystemExit(f"{', '.join(inputs)}: {len(crops)} images that {model} was trained on, {len(val)} calibrated")
    rows = pa.Table.from_pylist([{**row, "part": "val"} for _, row in val.values()])
    pixels_of_val = np.stack([crop for crop, _ in val.values()])
    return np.stack(crops), samples_of(rows, pixels_of_val, np.ones(len(val), np.bool_), config.sources())[1]


if __name__ == "__main__":
    main()
