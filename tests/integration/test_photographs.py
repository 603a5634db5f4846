"""Photographs through the jobs, with the real detector; on drawn scenes of real photographs where those are at hand."""

import csv
import json
import os
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from PIL import Image

from agegender import released
from agegender.cli import run_job
from agegender.config import EdaConfig, EvaluateConfig, PredictConfig
from agegender.data.alignment import align
from agegender.data.face_geometry import Face
from agegender.data.images import Pixels, decode
from agegender.errors import ConfigError, InputError
from agegender.pipelines.eda.run import run_eda
from agegender.pipelines.evaluate.run import run_evaluate
from agegender.pipelines.predict.run import run_predict
from agegender.pipelines.runtime.detector import DETECTOR_VARIABLE, face_search
from agegender.schema import YAWS
from agegender.scoring.cpu import CpuScorer
from agegender.training_config import TrainConfig
from tests.support.corpus import exif

ROOT = Path(__file__).parents[2]
DETECTOR = Path(os.environ.get(DETECTOR_VARIABLE, ROOT / "../shared/models/face_detection_yunet_n_dynamic.onnx"))
PHOTOS = Path(os.environ.get("AGEGENDER_PHOTOS", ROOT / "../shared/data/photos"))

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.skipif(not DETECTOR.is_file(), reason=f"no face detector at {DETECTOR}: set {DETECTOR_VARIABLE}"),
    pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no photographs at {PHOTOS}: set AGEGENDER_PHOTOS"),
]


@pytest.fixture(scope="module")
def counted() -> dict[str, int]:
    with (PHOTOS / "faces.csv").open() as file:
        return {row["file"]: int(row["faces"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, counted: dict[str, int]) -> Path:
    """The photographs by links, one without a face, and one that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    for name in counted:
        (folder / name).symlink_to((PHOTOS / name).resolve())
    Image.fromarray(np.full((600, 800, 3), 120, np.uint8)).save(folder / "wall.jpg")
    (folder / "broken.jpg").write_bytes(b"text")
    return folder


def predict(source: Path, output: Path, model: Path, **options: object) -> dict[str, object]:
    given: dict[str, Any] = {
        "input": [str(source)],
        "output": str(output),
        "model": str(model),
        "detector_model": str(DETECTOR),
    }
    given |= {"unit_images": 5, "num_workers": 2, "max_bad_fraction": 0.5}
    return run_predict(PredictConfig(**given | options))


def rows(output: Path) -> pa.Table:
    table = pyarrow.dataset.dataset(output, format="parquet").to_table()
    return table.sort_by([("uri", "ascending"), ("face_index", "ascending")])


@pytest.fixture(scope="module")
def scored(photos: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("scored") / "out"
    result = predict(photos, output, tiny_model, save_crops=True)
    assert result["by_status"] == {"ok": 16, "no_face": 1, "not_an_image": 1}
    assert result["faces"] == result["rows"] - 2  # type: ignore[operator]
    return output


def test_the_faces_that_a_person_counts_are_found(scored: Path, counted: dict[str, int]) -> None:
    names = [Path(row["uri"]).name for row in rows(scored).to_pylist() if row["status"] == "ok"]
    off = {name: names.count(name) - count for name, count in counted.items() if names.count(name) != count}
    assert sum(-difference for difference in off.values() if difference < 0) <= 1, off
    assert sum(difference for difference in off.values() if difference > 0) <= 2, (
        off
    )  # half faces that were not counted


def test_a_photograph_that_lies_on_its_side_or_head_gives_the_same_faces(photos: Path, counted: dict[str, int]) -> None:
    config = PredictConfig(input=["-"], output="-", detector_model=str(DETECTOR))
    search = face_search(config, 1000)
    assert search is not None
    finder, scorer = search.finder(), CpuScorer(released.FOLDER)
    faces, lost, years, genders = 0, 0, [], 0
    for number, name in enumerate(counted):
        pixels = decode((photos / name).read_bytes(), 10**8).pixels
        assert pixels is not None
        turned = np.ascontiguousarray(np.rot90(pixels, 1 + number % 3))
        upright, found = finder.find(pixels), finder.find(turned)
        faces, lost = faces + len(upright), lost + max(0, len(upright) - len(found))
        if len(found) == len(upright):
            before, after = scored_by_age(pixels, upright, scorer), scored_by_age(turned, found, scorer)
            years += np.abs(before[0] - after[0]).tolist()
            genders += abs(before[1] - after[1])
    assert lost <= 1, f"{lost} of {faces}"
    assert np.mean(years) <= 2.5
    assert genders <= 2


def test_boxes_of_a_first_search_give_its_faces_and_ages_again(photos: Path, counted: dict[str, int]) -> None:
    search = face_search(PredictConfig(input=["-"], output="-", detector_model=str(DETECTOR)), 1000)
    assert search is not None
    finder, scorer = search.finder(), CpuScorer(released.FOLDER)
    years, genders = [], 0
    for name in counted:
        pixels = decode((photos / name).read_bytes(), 10**8).pixels
        assert pixels is not None
        if not (found := finder.find(pixels)):
            continue
        again = finder.find_in(pixels, [(face.x, face.y, face.width, face.height) for face in found])
        kept = [face for face in again if face is not None]
        assert len(kept) == len(found)
        for face, other in zip(found, kept, strict=True):
            assert np.abs(face.centre - other.centre).max() < 0.1 * face.width
        before, after = scored_by_age(pixels, found, scorer), scored_by_age(pixels, kept, scorer)
        years += np.abs(before[0] - after[0]).tolist()
        genders += abs(before[1] - after[1])
    assert np.mean(years) <= 3
    assert genders <= 1


def test_each_given_box_is_a_row_in_its_order_with_what_was_kept_for_it(
    photos: Path, scored: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A manifest of the boxes of a first run, smallest first, with wrong ones between them."""
    first = [row for row in rows(scored).to_pylist() if row["status"] == "ok"]
    given = [{"uri": row["uri"], "id": f"face {row['face_index']}", **row["box"]} for row in reversed(first)]
    couple = str(photos / "couple.jpg")
    wrong = {"nan": (np.nan, 1, 2, 3), "negative": (9, 9, -5, 5), "outside": (1e6, 0, 9, 9), "wall": (1, 1, 30, 30)}
    boxes = [
        {"uri": couple, "id": name, **dict(zip(("x", "y", "width", "height"), box, strict=True))}
        for name, box in wrong.items()
    ]
    boxes += [
        {"uri": str(photos / "broken.jpg"), "id": f"broken {number}", "x": 1.0, "y": 1.0, "width": 9, "height": 9}
        for number in (0, 1)
    ]
    boxes += [{"uri": str(photos / "wall.jpg"), "id": "none", "x": None, "y": None, "width": None, "height": None}]
    table = pa.Table.from_pylist([*boxes[:2], *given, *boxes[2:]])
    pa.parquet.write_table(table, tmp_path / "boxes.parquet")
    options: dict[str, Any] = {"faces": "boxes", "keep_columns": ["id"]}
    result = predict(tmp_path / "boxes.parquet", tmp_path / "out", tiny_model, **options)
    found = rows(tmp_path / "out")
    assert result["faces"] == len(first)
    assert (result["images"], result["rows"]) == (18, table.num_rows)
    by_id = {(row["uri"], row["id"]): row for row in found.to_pylist()}
    assert len(by_id) == found.num_rows
    for row in first:
        again = by_id[row["uri"], f"face {row['face_index']}"]
        assert (again["status"], again["box"]) == ("ok", row["box"])
        assert again["detection_score"] >= 0.6
    errors = {name: by_id[couple, name]["error"] for name in wrong}
    assert {by_id[couple, name]["status"] for name in wrong} == {"no_face"}
    assert all(part in errors[name] for name, part in {
        "nan": "not four numbers", "negative": "has no area", "outside": "lies outside of the image", "wall": "no face of score 0.6"
    }.items())  # fmt: skip
    assert [by_id[str(photos / "broken.jpg"), f"broken {number}"]["status"] for number in (0, 1)] == [
        "not_an_image"
    ] * 2
    assert by_id[str(photos / "wall.jpg"), "none"]["error"] == "no box is given for this image"
    indices = [row["face_index"] for row in found.to_pylist() if row["uri"] == couple]
    assert indices == list(range(len(indices)))
    predict(tmp_path / "boxes.parquet", tmp_path / "again", tiny_model, num_workers=1, unit_images=512, **options)
    assert rows(tmp_path / "again").equals(found)
    with pytest.raises(ConfigError, match="box_format was"):
        predict(tmp_path / "boxes.parquet", tmp_path / "out", tiny_model, box_format="xyxy", **options)


def scored_by_age(pixels: Pixels, faces: list[Face], scorer: CpuScorer) -> tuple[np.ndarray, int]:
    """The ages of the faces in ascending order, as pairs would need their places, and how many are female."""
    scored = scorer.score(np.stack([align(pixels, face.landmarks, scorer.image_size_px) for face in faces]))
    return np.sort(scored.age_years), int((scored.female_probability > 0.5).sum())


def test_each_face_is_a_row_by_size_and_an_image_without_one_says_so(scored: Path) -> None:
    by_name: dict[str, list[dict[str, Any]]] = {}
    for row in rows(scored).to_pylist():
        by_name.setdefault(Path(row["uri"]).name, []).append(row)
    for found in by_name.values():
        assert [row["face_index"] for row in found] == list(range(len(found)))
        if found[0]["status"] == "ok":
            areas = [row["box"]["width"] * row["box"]["height"] for row in found]
            assert areas == sorted(areas, reverse=True)
            assert all(row["face_px"] == min(row["box"]["width"], row["box"]["height"]) for row in found)
            assert all(row["age_years"] is not None and 0.6 <= row["detection_score"] <= 1 for row in found)
            assert all(
                row["yaw"] in YAWS and 0 < row["sharpness"] < 1 and abs(row["roll_degrees"]) < 45 for row in found
            )
    (wall,) = by_name["wall.jpg"]
    assert (wall["status"], wall["width"], wall["box"], wall["age_years"]) == ("no_face", 800, None, None)


def test_half_hidden_bystanders_are_doubtful_and_whole_upright_faces_are_not(scored: Path) -> None:
    found = [row for row in rows(scored).to_pylist() if row["status"] == "ok"]
    doubtful = {(Path(row["uri"]).name, row["face_index"]): row["warning"] for row in found if row["abstained"]}
    assert "of its box lies outside" in doubtful["img62.jpg", 2]
    weak = [row for row in found if row["detection_score"] < 0.8]
    assert weak, "the detector finds no half hidden face any more: take others"
    assert all(row["abstained"] and "detection score" in row["warning"] for row in weak)
    assert all(row["warning"] is None for row in found if not row["abstained"])
    assert {name for name, _ in doubtful} <= {"img59.jpg", "img62.jpg", "selfie-many-people.jpg"}
    assert ("img62.jpg", 0) not in doubtful


def test_every_crop_is_saved_once(scored: Path) -> None:
    crops = list((scored / "_crops").rglob("*.jpg"))
    assert len(crops) == rows(scored)["age_years"].null_count * -1 + rows(scored).num_rows
    assert Image.open(crops[0]).size == (32, 32)


def test_other_workers_and_batches_give_the_same_rows_and_another_search_is_another_run(
    photos: Path, scored: Path, tiny_model: Path, tmp_path: Path
) -> None:
    predict(photos, tmp_path / "out", tiny_model, num_workers=1, unit_images=512)
    assert rows(tmp_path / "out").equals(rows(scored))
    for other in ({"min_face_px": 60}, {"faces": "none"}, {"max_faces": 2}, {"min_detection_score": 0.7}):
        with pytest.raises(ConfigError, match=f"{next(iter(other))} was"):
            predict(photos, tmp_path / "out", tiny_model, num_workers=1, unit_images=512, **other)


def test_a_crowd_is_bounded_by_number_size_and_score(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    crowd = photos / "selfie-many-people.jpg"
    predict(crowd, tmp_path / "two", tiny_model, max_faces=2)
    predict(crowd, tmp_path / "large", tiny_model, min_face_px=104)
    two, large = rows(tmp_path / "two").to_pylist(), rows(tmp_path / "large").to_pylist()
    assert [row["face_index"] for row in two] == [0, 1]
    assert 2 < len(large) < 6
    assert all(min(row["box"]["width"], row["box"]["height"]) >= 104 for row in large)


def test_boxes_are_in_pixels_of_the_image_as_it_is_shown(tiny_model: Path, tmp_path: Path) -> None:
    upright = Image.open(PHOTOS / "couple.jpg").convert("RGB").reduce(2)
    folder = tmp_path / "turned"
    folder.mkdir()
    stored = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    for orientation, turn in stored.items():
        target = BytesIO()
        picture = upright if turn is None else upright.transpose(turn)
        picture.save(target, "PNG", exif=exif(orientation))
        (folder / f"{orientation}.png").write_bytes(target.getvalue())
    predict(folder, tmp_path / "out", tiny_model)
    found = rows(tmp_path / "out")
    assert found.num_rows == 8
    first = found.slice(0, 2).to_pylist()
    for row, expected in zip(found.to_pylist(), first * 4, strict=True):
        assert (row["width"], row["height"], row["box"]) == (*upright.size, expected["box"])
        assert row["age_years"] == expected["age_years"]


def test_eda_and_evaluate_take_the_largest_face_of_each_photograph(
    photos: Path, tiny_model: Path, tmp_path: Path
) -> None:
    labelled = tmp_path / "set"
    labelled.mkdir()
    for index, photo in enumerate(sorted(photos.iterdir())):
        shutil.copy(photo, labelled / f"{20 + index}_{index % 2}_0_{20170101000000000 + index}.jpg")
    common = {"input": [str(labelled)], "faces": "detect", "detector_model": str(DETECTOR)}
    summary = run_eda(EdaConfig(**common, output=str(tmp_path / "eda")))
    assert summary["by_status"] == {"ok": 16, "no_face": 1, "not_an_image": 1}
    metrics = run_evaluate(
        EvaluateConfig(**common, model=str(tiny_model), output=str(tmp_path / "eval"), bootstrap_rounds=100)
    )
    assert metrics["n"] == 16
    assert metrics["images"]["by_status"] == {"ok": 16, "no_face": 1, "not_an_image": 1}
    predictions = pyarrow.parquet.read_table(tmp_path / "eval" / "predictions.parquet")
    assert predictions["face_index"].to_pylist() == [0] * 18


def test_training_on_photographs_learns_their_largest_faces(photos: Path, tmp_path: Path) -> None:
    from agegender.pipelines.train.run import run_train

    labelled = tmp_path / "set"
    labelled.mkdir()
    names = [
        name for name in sorted(path.name for path in photos.iterdir()) if name not in ("broken.jpg", "couple.jpg")
    ]
    for index in range(48):  # each photograph several times, cut differently, so that no two are the same file
        photo = Image.open(photos / names[index % len(names)]).convert("RGB")
        photo.crop((index, 0, photo.width, photo.height)).save(
            labelled / f"{20 + index}_{index % 2}_0_{20170101000000000 + index}.jpg"
        )
    result = run_train(
        TrainConfig(
            input=[str(labelled)], output=str(tmp_path / "out"), faces="detect", detector_model=str(DETECTOR),
            epochs=1, image_size_px=32, batch_size=8, val_fraction=0.25, test_fraction=0.25, near_duplicate_bits=0, images=False,
        )
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "model" / "model.json").read_text())["framing"] == "utkface-chip-1"
    assert result


def test_a_model_of_another_framing_is_refused(photos: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    info = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps(info | {"framing": "tight-2"}))
    with pytest.raises(InputError, match=r"'tight-2'.*'utkface-chip-1'"):
        predict(photos, tmp_path / "out", model)
    assert not (tmp_path / "out").exists()


def test_preview_draws_on_each_photograph(
    photos: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(photos / "couple.jpg"), str(photos / "wall.jpg"), "--model", str(tiny_model)]
    assert run_job("preview", [*arguments, "--output", str(tmp_path / "out"), "--detector-model", str(DETECTOR)]) == 0
    assert "2" in capsys.readouterr().out
    couple, wall = sorted((tmp_path / "out").glob("*.jpg"))
    assert (couple.name, wall.name) == ("00000-couple.jpg", "00001-wall.jpg")
    assert Image.open(couple).size[0] == 1600
