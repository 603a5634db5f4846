"""Calibrate a model for small faces, or measure what it says of them: real crops, reduced to several sizes and enlarged again.

    python benchmarks/small_faces.py fit     --model out/train/model --split out/train/split.parquet
    python benchmarks/small_faces.py measure --model out/train/model --split out/train/split.parquet [--count 1000]

``agegender train`` calibrates every model it trains. ``fit`` does the same for a model that was trained before it did, on the
validation part of its own split, and writes the result into its model.json. ``measure`` reads the test part alone. The split
is that of the model's training, or of any run with the same images, seed and fractions.
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from agegender.artifact import INFO_FILE, ModelInfo
from agegender.data.corruptions import with_face_px
from agegender.data.face_quality import FACE_SHARE_OF_CROP
from agegender.data.images import Pixels, decode, resize
from agegender.data.splits import split_hash
from agegender.evaluation.calibration import gender_calibration_error
from agegender.evaluation.metrics import MetricSums, Observations
from agegender.model.batches import Samples
from agegender.model.checkpoint import load_network
from agegender.pipelines.train.calibrate import calibrate
from agegender.recipe import Recipe
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.load import open_model
from agegender.scoring.predictions import Predictions, for_face_sizes

MEASURED_PX = (12, 16, 20, 24, 32, 48, 64)
TOLERANCE = 0.01


def main() -> None:
    """Fit or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "measure"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True, help="split.parquet, whose images lie where it says")
    parser.add_argument("--count", type=int, help="measure only this many images")
    given = parser.parse_args()
    info, split = open_model(given.model), pq.read_table(given.split)
    if split_hash(split) != info.split_hash:
        raise SystemExit(f"{given.split}: not the split of {given.model}, whose hash is {info.split_hash}")
    if given.what == "fit":
        _fit(given.model, info, split.filter(pc.equal(split["part"], "val")))
    else:
        print(_measure(given.model, split.filter(pc.equal(split["part"], "test")).slice(0, given.count)))


def _fit(folder: Path, info: ModelInfo, rows: pa.Table) -> None:
    pixels = _crops(rows, info.config["image_size_px"])
    genders = rows["gender"].fill_null(-1).to_numpy().astype(np.int64)
    val = Samples(pixels, np.arange(len(pixels)), _ages(rows), genders)
    calibration, _ = calibrate(load_network(folder)[0], val, Recipe(), torch.device("cpu"))
    if abs(calibration.gender_temperature / info.calibration.gender_temperature - 1) > TOLERANCE:
        raise SystemExit(f"{folder}: these images give another calibration of whole crops than it was made with")
    updated = info.calibration.model_copy(update={"by_face_size": calibration.by_face_size})
    (folder / INFO_FILE).write_text(info.model_copy(update={"calibration": updated}).model_dump_json(indent=2))
    for row in calibration.by_face_size:
        print(row.model_dump())


def _measure(folder: Path, rows: pa.Table) -> str:
    """A line per size, with the calibration of whole crops and with that of the size."""
    scorer = CpuScorer(folder)
    crops = _crops(rows, scorer.image_size_px)
    whole_px = FACE_SHARE_OF_CROP * scorer.image_size_px
    lines = [
        "| face, px | MAE, years | bias, years | gender right | interval holds | mean width, years | gender calibration error "
        "| mean gender probability |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for face_px in (*MEASURED_PX, whole_px):
        plain = scorer.score(np.stack([with_face_px(crop, face_px) for crop in crops]))
        sized = for_face_sizes(plain, np.full(len(plain), face_px), scorer.info.calibration)
        before, after = (_observations(rows, predictions) for predictions in (plain, sized))
        old, new = (MetricSums.of(observations).values() for observations in (before, after))
        name = "as they are" if face_px == whole_px else f"{face_px:g}"
        lines.append(
            f"| {name} | {new['age_mae_years']:.2f} | {new['age_bias_years']:+.2f} "
            f"| {_share(old['gender_accuracy'])} -> {_share(new['gender_accuracy'])} "
            f"| {_share(old['interval_coverage'])} -> {_share(new['interval_coverage'])} "
            f"| {old['interval_width_years']:.1f} -> {new['interval_width_years']:.1f} "
            f"| {gender_calibration_error(before):.3f} -> {gender_calibration_error(after):.3f} "
            f"| {_share(_certainty(plain))} -> {_share(_certainty(sized))} |"
        )
    return "\n".join(lines)


def _crops(rows: pa.Table, side_px: int) -> Pixels:
    decoded = (decode(Path(uri).read_bytes(), 10**8).pixels for uri in rows["uri"].to_pylist())
    return np.stack([resize(pixels, side_px) for pixels in decoded if pixels is not None])


def _ages(rows: pa.Table) -> np.ndarray:
    ages: np.ndarray = rows["age_years"].to_numpy().astype(np.float32)
    return ages


def _observations(rows: pa.Table, predictions: Predictions) -> Observations:
    none = np.full(len(predictions), -1, np.int8)
    return Observations(
        age_true=_ages(rows),
        gender_true=rows["gender"].fill_null(-1).to_numpy().astype(np.int8),
        race=none,
        age_pred=predictions.age_years,
        age_low=predictions.age_low_years,
        age_high=predictions.age_high_years,
        female_probability=predictions.female_probability,
        range_low=np.full(len(predictions), np.nan, np.float32),
        range_high=np.full(len(predictions), np.nan, np.float32),
        bucket_steps=none,
        source=none.astype(np.int16),
    )


def _certainty(predictions: Predictions) -> float:
    female = predictions.female_probability
    return float(np.maximum(female, 1 - female).mean())


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
