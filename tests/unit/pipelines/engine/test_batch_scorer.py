import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from agegender.artifact import FaceSizeCalibration
from agegender.data.corruptions import Corruption
from agegender.data.images import decode, encode_jpeg, resize
from agegender.data.synthetic import draw_face
from agegender.errors import ConfigError
from agegender.option_groups import ImageLimits, SourceOptions
from agegender.pipelines.engine.batch_scorer import NO_BYTES, Decoder, Scorer
from agegender.pipelines.engine.unit_scorer import UnitScorer
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.source.fetch import fetch_blocks
from agegender.pipelines.source.listing import list_source
from agegender.schema import LISTING, TRUE_LABELS, prediction_schema
from agegender.scoring.load import LocalModel
from tests.support.corpus import MAX_PIXELS, WITH_WARNING, picture, write_corpus
from tests.support.drawn import write_faces


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> SourceOptions:
    """Drawn faces with labels in their names, and a file of every bad kind."""
    folder = tmp_path_factory.mktemp("batches")
    write_faces(folder / "faces", 12)
    write_corpus(folder / "corpus")
    return SourceOptions(input=[str(folder / "faces"), str(folder / "corpus")], max_image_pixels=MAX_PIXELS)


@pytest.fixture(scope="session")
def listed(options: SourceOptions) -> pa.Table:
    return pa.concat_tables(list_source(options))


@pytest.fixture(scope="session")
def batch(listed: pa.Table, options: SourceOptions) -> pa.Table:
    return pa.concat_tables(fetch_blocks(listed, options.limits()))


def test_a_scorer_gives_what_scoring_a_unit_gives(batch, listed, options, tiny_model):
    scorer = Scorer(str(tiny_model), faces="none", precision="float32", max_image_pixels=MAX_PIXELS)
    scored = scorer(batch)
    unit = UnitScorer(localize_model(str(tiny_model)), options.limits()).score_unit(listed)
    assert scored.select(unit.column_names).equals(unit)
    assert set(unit["status"].to_pylist()) > {"ok", "not_an_image", "truncated", "too_large", "empty"}
    for row in unit.to_pylist():
        expected_px = 0.84 * min(row["width"], row["height"]) if row["status"] == "ok" else None
        assert row["face_px"] == (expected_px and pytest.approx(expected_px))
        assert (row["sharpness"] is not None) == (row["status"] == "ok")
        assert (row["roll_degrees"], row["yaw"], row["abstained"] or False) == (None, None, False)


def test_small_faces_are_scored_with_what_they_are_worth(tmp_path, tiny_model):
    for side_px in (24, 200):
        Path(tmp_path / f"{side_px}.jpg").write_bytes(encode_jpeg(draw_face(30.0, 1, 5, side_px)))
    listing = pa.concat_tables(list_source(SourceOptions(input=[str(tmp_path)])))
    model = localize_model(str(tiny_model))
    table = [FaceSizeCalibration(face_px=20.16, age_low_factor=3, age_high_factor=2), FaceSizeCalibration(face_px=100)]
    calibration = model.info.calibration.model_copy(update={"by_face_size": table})
    sized = LocalModel(model.folder, model.info.model_copy(update={"calibration": calibration}))

    def rows(model: LocalModel, **how: Any) -> list[dict[str, Any]]:
        scored: list[dict[str, Any]] = UnitScorer(model, ImageLimits()).score_unit(listing, **how).to_pylist()
        return scored

    (large, small), (same, wide) = (sorted(rows(each), key=lambda row: -row["width"]) for each in (model, sized))
    assert same == large and wide["face_px"] == pytest.approx(20.16)
    assert wide["age_low_years"] == pytest.approx(
        small["age_years"] - 3 * (small["age_years"] - small["age_low_years"])
    )
    assert wide["age_high_years"] == pytest.approx(
        small["age_years"] + 2 * (small["age_high_years"] - small["age_years"])
    )
    reduced = rows(sized, corruption=Corruption(lambda pixels: pixels, "", 20.16))
    for row, before in zip(reduced, rows(model), strict=True):
        assert row["face_px"] == pytest.approx(20.16)
        assert row["age_years"] - row["age_low_years"] == pytest.approx(
            3 * (before["age_years"] - before["age_low_years"])
        )
    assert "by_face_size" in sized.info.identity() and "by_face_size" not in model.info.identity()


def test_other_columns_are_kept_and_labels_stand_beside_estimates(batch, tiny_model):
    mine = batch.append_column("camera", pa.array([f"c{index}" for index in range(batch.num_rows)]))
    scored = Scorer(str(tiny_model), faces="none", batch_size=5, max_image_pixels=MAX_PIXELS)(mine)
    kept = ["container", "offset", "size_bytes", "etag"]
    assert scored.column_names == [*prediction_schema().names, *kept, *TRUE_LABELS, "camera"]
    assert scored["camera"].equals(mine["camera"])
    assert scored["true_age_years"].equals(batch["age_years"])
    assert not scored["age_years"].equals(batch["age_years"])


@pytest.mark.parametrize("size", [1, 5])
def test_how_the_rows_are_cut_into_batches_changes_nothing(batch, tiny_model, size):
    scorer = Scorer(str(tiny_model), faces="none", precision="float32", max_image_pixels=MAX_PIXELS)
    parts = [scorer(batch.slice(start, size)) for start in range(0, batch.num_rows, size)]
    assert pa.concat_tables(parts).equals(scorer(batch))


def test_an_empty_batch_has_the_columns_of_a_full_one(batch, tiny_model):
    scorer = Scorer(str(tiny_model), faces="none", age_distribution=True, max_image_pixels=MAX_PIXELS)
    assert scorer(batch.slice(0, 0)).schema.equals(scorer(batch).schema)
    assert "age_probabilities" in scorer(batch).column_names
    decoder = Decoder(16)
    assert decoder(batch.slice(0, 0)).schema.equals(decoder(batch).schema)


def test_bytes_are_enough_and_their_absence_is_a_status(batch, tiny_model):
    rows = pa.table({"uri": ["a", "b"], "bytes": [batch["bytes"][0].as_py(), None]})
    scored = Scorer(str(tiny_model), faces="none")(rows)
    assert scored["status"].to_pylist() == ["ok", "empty"]
    assert scored["error"].to_pylist() == [None, NO_BYTES]
    assert Decoder(16)(rows)["status"].to_pylist() == ["ok", "empty"]


def test_a_column_that_is_missing_or_taken_is_named(batch, tiny_model):
    scorer = Scorer(str(tiny_model), faces="none")
    with pytest.raises(ConfigError, match="no column 'bytes'"):
        scorer(batch.drop_columns(["bytes"]))
    with pytest.raises(ConfigError, match="a column 'box'"):
        scorer(batch.append_column("box", batch["uri"]))
    with pytest.raises(ConfigError, match='batch_format="pyarrow"'):
        scorer({"uri": np.array(["a"]), "bytes": np.array([b""])})


def test_a_decoder_gives_pixels_of_one_shape_and_black_where_there_are_none(batch):
    decoded = Decoder(24, max_image_pixels=MAX_PIXELS)(batch)
    assert decoded.column_names == [*LISTING.names, "status", "error", "warning", "width", "height", "image"]
    assert decoded["warning"].null_count == decoded.num_rows - len(WITH_WARNING)
    assert decoded["uri"].equals(batch["uri"])
    images = decoded["image"].combine_chunks().to_numpy_ndarray()
    assert (images.shape, images.dtype) == ((batch.num_rows, 24, 24, 3), np.uint8)
    for data, status, width, image in zip(batch["bytes"], decoded["status"], decoded["width"], images, strict=True):
        whole = decode(data.as_py(), MAX_PIXELS, 24) if data.is_valid else None
        assert (status.as_py() == "ok") == (whole is not None and whole.pixels is not None)
        if whole is not None and whole.pixels is not None:
            assert np.array_equal(image, resize(whole.pixels, 24))
            assert width.as_py() == whole.width
        else:
            assert not image.any()


def test_half_a_jpeg_is_scored_where_that_is_allowed(tiny_model):
    data = encode_jpeg(picture(160, 160))
    half = pa.table({"uri": ["half.jpg"], "bytes": [data[: len(data) // 2]]})
    for allowed, status in ((False, "truncated"), (True, "ok")):
        scored = Scorer(str(tiny_model), faces="none", allow_truncated=allowed)(half)
        decoded = Decoder(24, allow_truncated=allowed)(half)
        assert scored["status"].to_pylist() == decoded["status"].to_pylist() == [status]
        assert (scored["age_years"].null_count == 0) == allowed
        for rows in (scored, decoded):
            (warning,) = rows["warning"].to_pylist()
            assert ("of the image are missing" in warning) if allowed else warning is None


def test_a_process_without_gpu_scores_without_torch(batch, tiny_model, tmp_path: Path):
    with pa.OSFile(str(tmp_path / "batch"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_table(batch)
    program = f"""
import sys
sys.modules["torch"] = None
import pyarrow as pa
from agegender.pipelines.engine.batch_scorer import Decoder, Scorer
batch = pa.ipc.open_file({str(tmp_path / "batch")!r}).read_all()
assert Scorer({str(tiny_model)!r}, faces="none")(batch).num_rows == batch.num_rows
assert Decoder(8)(batch).num_rows == batch.num_rows
assert "ray" not in sys.modules
"""
    variables = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    subprocess.run([sys.executable, "-c", program], check=True, env=variables)


def test_a_gpu_is_used_where_the_process_was_given_one(tiny_model, monkeypatch: pytest.MonkeyPatch):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so that there is nothing to refuse")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="sees no GPU"):
        Scorer(str(tiny_model), faces="none")
    Scorer(str(tiny_model), faces="none", device="cpu")
