"""``agegender.predict``, ``eda``, ``train`` and ``evaluate``: real runs on drawn faces, from every kind of source."""

import gc
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

import agegender
from agegender.api.faces import Faces
from agegender.data.synthetic import draw_sample
from agegender.errors import ConfigError, InputError
from agegender.schema import prediction_schema
from tests.support.drawn import write_faces

NASTY = "<script>alert('&')</script>.jpg"
JPEGS = [draw_sample(index, 3, 64)[1] for index in range(4)]
PIXELS = [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in JPEGS]
ESTIMATES = ["age_years", "age_low_years", "age_high_years", "female_probability"]


@pytest.fixture(scope="module")
def options(tiny_model: Path) -> dict[str, Any]:
    return {"model": tiny_model, "faces": "none"}


@pytest.fixture(scope="module")
def by_address(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Faces:
    """The four drawings as lossless files in a folder."""
    folder = tmp_path_factory.mktemp("drawn")
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return agegender.predict(folder, **options)


def test_rows_are_those_of_the_contract(by_address: Faces) -> None:
    assert by_address.table.schema.names == prediction_schema().names
    assert len(by_address) == by_address.table.num_rows == len(by_address.df) == 4
    assert by_address.summary["by_status"] == {"ok": 4}
    assert str(by_address.df["status"].dtype) == "category"
    assert "4 in 4 images (4 ok)" in repr(by_address)
    assert duckdb.sql(f"SELECT count(*) FROM read_parquet('{by_address.output}/*.parquet')").fetchall() == [(4,)]


@pytest.mark.parametrize(
    "source",
    [
        JPEGS,
        PIXELS,
        np.stack(PIXELS),
        [Image.fromarray(pixels) for pixels in PIXELS],
        [JPEGS[0], PIXELS[1], Image.fromarray(PIXELS[2]), bytearray(JPEGS[3])],
        pa.table({"bytes": JPEGS, "uri": ["a", "b", "c", "d"]}),
        pd.DataFrame({"bytes": JPEGS}),
    ],
    ids=["bytes", "arrays", "one array of all", "PIL", "mixed", "Arrow table", "DataFrame"],
)
def test_images_in_memory_give_the_rows_of_the_same_files(
    source: Any, options: dict[str, Any], by_address: Faces
) -> None:
    faces = agegender.predict(source, **options)
    expected = by_address.df[ESTIMATES]
    # A JPEG is decoded to the pixels that were written losslessly.
    pd.testing.assert_frame_equal(faces.df[ESTIMATES], expected)


def test_one_image_is_a_source(options: dict[str, Any], by_address: Faces) -> None:
    faces = agegender.predict(PIXELS[0], **options)
    assert faces.table.column("uri").to_pylist() == ["image-000000"]
    assert faces.table.column("age_years")[0] == by_address.table.column("age_years")[0]


def test_a_bad_image_is_a_row_wherever_it_comes_from(options: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "good.jpg").write_bytes(JPEGS[0])
    listed = agegender.predict([tmp_path / "bad.jpg", tmp_path / "gone.jpg", tmp_path / "good.jpg"], **options)
    assert listed.table.column("status").to_pylist() == ["not_an_image", "missing", "ok"]
    in_memory = agegender.predict([b"no image", PIXELS[0], b""], **options)
    assert in_memory.table.column("status").to_pylist() == ["not_an_image", "ok", "empty"]
    assert in_memory.summary["by_status"] == {"ok": 1, "empty": 1, "not_an_image": 1}
    with pytest.raises(InputError, match=r"1 of 2 files are bad \(50\.0%\)"):
        agegender.predict([b"no image", PIXELS[0]], **options, max_bad_fraction=0.1)


def test_columns_of_a_table_are_kept(options: dict[str, Any], by_address: Faces) -> None:
    frame = pd.DataFrame({"bytes": JPEGS, "person": [7, 8, 9, 10], "age_years": [30.0, 31.0, 32.0, 33.0]})
    faces = agegender.predict(frame, **options)
    assert faces.table.column("person").to_pylist() == [7, 8, 9, 10]
    assert faces.table.column("source_age_years").to_pylist() == [30.0, 31.0, 32.0, 33.0]
    assert faces.table.column("age_years") == by_address.table.column("age_years"), "the estimate, not the label"
    some = agegender.predict(frame, **options, keep_columns=["age_years"])
    assert some.table.schema.names == [*prediction_schema().names, "source_age_years"]


def test_a_wrong_call_says_what_is_allowed_and_writes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"no option 'face'\. Did you mean faces\?"):
        agegender.predict(PIXELS, output=output, face="none")
    with pytest.raises(ConfigError, match="faces: Input should be 'none', 'detect' or 'boxes'"):
        agegender.predict(PIXELS, output=output, faces="some")
    with pytest.raises(InputError, match=r"must be uint8\[H, W, 3\]"):
        agegender.predict([PIXELS[0][..., 0]], output=output, **options)
    with pytest.raises(InputError, match="nothing/here"):
        agegender.predict(tmp_path / "nothing/here", **options)
    assert not output.exists()


def test_the_same_call_goes_on_and_another_source_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    first = agegender.predict(PIXELS, output=tmp_path / "out", **options)
    again = agegender.predict(PIXELS, output=tmp_path / "out", **options)
    assert again.table == first.table
    assert len(list((tmp_path / "out" / "_input").iterdir())) == 1
    with pytest.raises(ConfigError, match="holds another predict run: input was"):
        agegender.predict(PIXELS[:2], output=tmp_path / "out", **options)
    assert len(list((tmp_path / "out" / "_input").iterdir())) == 1, "what the refused call wrote is gone"


def test_a_temporary_folder_goes_with_the_object(options: dict[str, Any]) -> None:
    faces = agegender.predict(PIXELS[:1], **options)
    folder = Path(faces.output)
    assert list(folder.glob("*.parquet"))
    kept = faces.table
    del faces
    gc.collect()
    assert not folder.exists()
    assert kept.num_rows == 1


def test_a_notebook_shows_crops_and_pyramid_and_no_name_becomes_markup(options: dict[str, Any]) -> None:
    table = pa.table({"bytes": [*JPEGS, b"<script>no image"], "uri": [*"abcd", NASTY]})
    faces = agegender.predict(table, **options)
    page = faces._repr_html_()
    assert page.count('<img src="data:image/jpeg;base64,') == 4
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;.jpg" in page
    assert "http" not in page
    assert len(page) < 100_000
    faces.show_images = False
    assert "<img" not in faces._repr_html_()


def test_the_crop_of_a_face_is_cut_from_its_box(tmp_path: Path) -> None:
    from agegender.api.crops import SIDE_PX, cut_crops
    from agegender.data.images import decode
    from agegender.option_groups import SourceOptions
    from agegender.pipelines.runtime.layout import OutputLayout, unit_uri
    from agegender.pipelines.source.listing import list_source
    from agegender.storage import tables

    picture = np.zeros((300, 400, 3), np.uint8)
    picture[100:140, 300:340] = (255, 0, 0)
    Image.fromarray(picture).save(tmp_path / "a.png")
    source = SourceOptions(input=[str(tmp_path / "a.png")])
    (listed,) = list_source(source)
    output = str(tmp_path / "out")
    tables.write_table(unit_uri(OutputLayout(output).listing, 0), listed)
    row: dict[str, Any] = {"uri": str(tmp_path / "a.png"), "status": "ok"}
    inside = {"x": 300.0, "y": 100.0, "width": 40.0, "height": 40.0}
    corner = {"x": -10.0, "y": -10.0, "width": 40.0, "height": 40.0}
    rows = [row | {"box": inside}, row | {"box": corner}, {"uri": "gone", "status": "missing", "box": None}]
    crops = cut_crops(output, source, rows)
    assert crops[2] is None
    red, black = (decode(crop or b"", 10**6).pixels for crop in crops[:2])
    assert red is not None
    assert black is not None
    assert red.shape == black.shape == (SIDE_PX, SIDE_PX, 3)
    middle, edge = red[SIDE_PX // 2, SIDE_PX // 2], red[3, 3]
    assert middle[0] > 240 > 20 > middle[1]
    assert edge.max() < 20, "a margin is left about the box"
    assert black.max() < 20


def test_predict_in_a_bare_process_configures_no_logging_and_loads_neither_torch_nor_a_cluster(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Also without a main guard, as in a script or a notebook."""
    (tmp_path / "a.jpg").write_bytes(JPEGS[0])
    program = (
        "import json, logging, signal, sys, agegender\n"
        "handler = signal.getsignal(signal.SIGTERM)\n"
        f"faces = agegender.predict({str(tmp_path)!r}, model={str(tiny_model)!r}, faces='none')\n"
        "assert signal.getsignal(signal.SIGTERM) is handler\n"
        "import_names = {'torch', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "ray = sys.modules.get('ray')\n"
        "print(json.dumps([len(faces), sorted(import_names), len(logging.getLogger().handlers),\n"
        "                  bool(ray and ray.is_initialized())]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [1, [], 0, False]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    write_faces(folder, 60, seed=0, size_px=40)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.usefixtures("ray_cluster")
def test_eda_as_an_object(labelled: Path) -> None:
    looked = agegender.eda(labelled, images=False)
    assert len(looked) == looked.tables["images"].num_rows == len(looked.df) == 61
    assert looked.summary["by_status"] == {"ok": 60, "not_an_image": 1}
    for name in looked.tables:
        assert isinstance(looked.tables[name], pa.Table), name
    assert looked.tables["ages"].column("images").to_numpy().sum() == 60
    with pytest.raises(KeyError, match="the tables are images, ages"):
        looked.tables["age"]
    assert "<html" in Path(looked.report).read_text()
    page = looked._repr_html_()
    assert page.count("<svg") == 1
    assert "not_an_image" in page
    assert "http" not in page


@pytest.mark.usefixtures("ray_cluster")
def test_eda_of_a_table_in_memory_takes_its_labels() -> None:
    frame = pd.DataFrame({"bytes": JPEGS, "age_years": [30, 31, 32, 33], "gender": ["male", "male", "female", None]})
    looked = agegender.eda(frame)
    assert looked.summary["by_age"] == {"30": 1, "31": 1, "32": 1, "33": 1}
    assert looked.summary["by_gender"] == {"male": 2, "female": 1}
    without_names = agegender.eda(PIXELS)
    assert (without_names.summary["labelled"], without_names.summary["label_problems"]) == (0, {})


@pytest.mark.usefixtures("ray_cluster")
def test_train_then_evaluate_then_predict(labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"image_size_px": 64, "epochs": 2, "batch_size": 16, "val_fraction": 0.3, "test_fraction": 0.3}
    run = agegender.train(labelled, output="out/train", augment={"noise_probability": 0.0}, num_cpus=2, **settings)
    assert run.metrics.column("epoch").to_pylist() == [1, 2]
    assert run.df["age_mae_years"].iloc[-1] == run.summary["age_mae_years"]
    assert 'href="out/train/report.html"' in run._repr_html_()
    measured = agegender.evaluate(labelled, model=run.model, split=run.split, bootstrap_rounds=100)
    assert len(measured) == measured.table.num_rows == len(measured.df) == run.summary["test_images"] > 0
    assert measured.metrics["model"]["model_id"] == run.summary["model_id"]
    assert set(measured.slices.column("slice").to_pylist()) >= {"age_group", "gender"}
    assert f"{measured.metrics['age_mae_years']['value']:.2f} years" in measured._repr_html_()
    assert "images" in repr(measured)
    faces = agegender.predict(labelled, model=run.model, faces="none", limit=3)
    assert len(faces) == 3


def test_training_wants_an_output_and_labels(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="output"):
        agegender.train(PIXELS)  # type: ignore[call-arg]


def test_an_evaluation_without_labels_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match=r"none of the 4 images .* has a label"):
        agegender.evaluate(PIXELS)
    assert not list(tmp_path.iterdir()), "what was made for it is gone"
