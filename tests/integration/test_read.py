"""``read`` on a real Ray: every kind of source, bad files as rows, and pipelines of a user's own behind it."""

import csv
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data.expressions import col

from agegender.config import PredictConfig
from agegender.errors import ConfigError, InputError
from agegender.pipelines.engine.batch_scorer import Decoder, Scorer
from agegender.pipelines.predict.run import run_predict
from agegender.pipelines.source import fetch
from agegender.pipelines.source.datasource import read
from agegender.schema import LISTING
from tests.support.corpus import MAX_PIXELS, write_corpus
from tests.support.drawn import write_faces
from tests.support.runs import rows_of

pytestmark = pytest.mark.usefixtures("ray_cluster")
COLUMNS = [*LISTING.names, "bytes", "status", "error"]
FACES = 40


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces under UTKFace names."""
    path = tmp_path_factory.mktemp("read") / "faces"
    write_faces(path, FACES)
    return path


def table_of(dataset: "ray.data.Dataset") -> pa.Table:
    """All rows, by uri."""
    tables = [ray.get(block) for block in dataset.to_arrow_refs()]
    return pa.concat_tables(table for table in tables if table.num_rows).sort_by("uri")


def test_a_folder_gives_bytes_and_labels(folder):
    found = table_of(read(str(folder), unit_images=8))
    paths = sorted(folder.iterdir())
    assert found.column_names == COLUMNS
    assert found["uri"].to_pylist() == [str(path) for path in paths]
    assert found["bytes"].to_pylist() == [path.read_bytes() for path in paths]
    assert set(found["status"].to_pylist()) == {"ok"}
    assert found["age_years"].to_pylist() == [float(path.name.split("_")[0]) for path in paths]
    assert found["gender"].to_pylist() == [int(path.name.split("_")[1]) for path in paths]


def test_a_manifest_with_its_own_columns_and_a_missing_file(folder, tmp_path):
    paths = sorted(folder.iterdir())[:5]
    with (tmp_path / "people.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["photo", "years", "sex", "camera"])
        out.writerows([str(path), 20 + index, "female", f"c{index}"] for index, path in enumerate(paths))
        out.writerows([["gone.jpg", 33, "male", "c9"], [str(paths[0]), 70, "male", "c9"]])  # the second is a repeat
    found = read(
        str(tmp_path / "people.csv"),
        uri_column="photo",
        age_column="years",
        gender_column="sex",
        keep_columns=["camera"],
    )
    rows = {row["uri"]: row for row in found.iter_rows()}
    assert set(rows) == {*map(str, paths), str(tmp_path / "gone.jpg")}
    gone = rows.pop(str(tmp_path / "gone.jpg"))
    assert (gone["status"], gone["bytes"], gone["age_years"], gone["camera"]) == ("missing", None, 33, "c9")
    assert [(row["age_years"], row["gender"], row["camera"]) for _, row in sorted(rows.items())] == [
        (20 + index, 1, f"c{index}") for index in range(5)
    ]


def test_a_table_of_bytes_and_a_tar_beside_a_folder_that_has_the_same_images(folder, tmp_path):
    paths = sorted(folder.iterdir())
    table = pa.table({"uri": [f"t/{path.name}" for path in paths], "bytes": [path.read_bytes() for path in paths]})
    pq.write_table(table, tmp_path / "bytes.parquet", row_group_size=7)
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for path in paths:
            archive.add(path, path.name)
    inputs = [str(tmp_path / "bytes.parquet"), str(tmp_path / "shard.tar"), str(folder), str(folder)]
    found = table_of(read(inputs, unit_images=9))
    assert found.num_rows == 3 * FACES
    assert Counter(found["bytes"].to_pylist()) == Counter(dict.fromkeys([path.read_bytes() for path in paths], 3))
    assert Counter(found["container"].to_pylist()) == {inputs[0]: FACES, inputs[1]: FACES, None: FACES}


def test_bad_files_are_rows_and_the_decoder_says_what_they_are(tmp_path):
    expected = write_corpus(tmp_path / "in")
    images = read(str(tmp_path / "in"), labels="none", max_image_pixels=MAX_PIXELS)
    decoded = images.map_batches(
        Decoder,
        fn_constructor_kwargs={"image_size_px": 16, "max_image_pixels": MAX_PIXELS},
        batch_format="pyarrow",
        batch_size=8,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0.5,
    )
    rows = list(decoded.iter_rows())
    assert {Path(row["uri"]).name: row["status"] for row in rows} == {
        Path(str(name)).name: str(status) for name, status in expected.items()
    }
    assert all(row["image"].shape == (16, 16, 3) and row["image"].dtype == np.uint8 for row in rows)
    assert all(row["status"] == "ok" or not row["image"].any() for row in rows)
    assert sum(bool(row["image"].any()) for row in rows) > 10


def test_a_pipeline_of_the_users_own_gets_tensors(folder):
    decoded = read(str(folder)).map_batches(
        Decoder, fn_constructor_kwargs={"image_size_px": 24}, batch_format="pyarrow", concurrency=1, num_cpus=0.5
    )

    def brightness(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert batch["image"].shape[1:] == (24, 24, 3)
        return {"age_years": batch["age_years"], "brightness": batch["image"].mean(axis=(1, 2, 3))}

    bright = decoded.filter(expr=col("status") == "ok").map_batches(brightness, batch_format="numpy")
    assert decoded.take_batch(3)["image"].shape == (3, 24, 24, 3)
    rows = list(bright.iter_rows())
    assert len(rows) == FACES
    assert all(0 < row["brightness"] < 255 for row in rows)
    (first,) = decoded.select_columns(["image"]).iter_torch_batches(batch_size=FACES)
    assert tuple(first["image"].shape) == (FACES, 24, 24, 3)


def test_a_scorer_gives_the_rows_of_predict(folder, tiny_model, tmp_path):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    try:
        scored = read(str(folder), unit_images=8).map_batches(
            Scorer,
            fn_constructor_kwargs={"model": str(tiny_model), "faces": "none"},
            batch_format="pyarrow",
            batch_size=16,
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0.8,
        )
        found = table_of(scored)
        run_predict(
            PredictConfig(
                input=[str(folder)], output=str(tmp_path / "out"), model=str(tiny_model), faces="none", address=None
            )
        )
    finally:
        (folder / "broken.jpg").unlink()
    expected = rows_of(tmp_path / "out")
    assert found.num_rows == FACES + 1
    assert found.select(expected.column_names).to_pylist() == expected.to_pylist()
    assert found["true_age_years"].null_count == 1


def test_blocks_stay_small_whatever_a_unit_holds(tmp_path):
    large = np.random.default_rng(0).integers(0, 255, 3_000_000, np.uint8).tobytes()
    (tmp_path / "in").mkdir()
    for index in range(30):
        (tmp_path / "in" / f"{index}.jpg").write_bytes(large)
    sizes = [block.nbytes for block in map(ray.get, read(str(tmp_path / "in")).to_arrow_refs())]
    assert sum(sizes) > 90_000_000
    assert max(sizes) < 2 * fetch.BLOCK_BYTES


def test_a_wrong_source_is_an_error_at_once(folder, tmp_path):
    with pytest.raises(InputError, match="no files there"):
        read(str(tmp_path / "nowhere"))
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"only 1 \.txt"):
        read(str(tmp_path / "in"))
    with pytest.raises(InputError, match="no columns to keep"):
        read(str(folder), keep_columns=["camera"])
    pq.write_table(pa.table({"uri": ["a"], "status": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(ConfigError, match="status: read has a column of this name"):
        read(str(tmp_path / "m.parquet"), keep_columns=["status"])
