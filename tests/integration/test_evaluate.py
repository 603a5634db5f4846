import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agegender.config import EvaluateConfig
from agegender.data.corruptions import CORRUPTIONS
from agegender.data.images import encode_jpeg
from agegender.errors import ConfigError, InputError
from agegender.evaluation.metrics import METRICS
from agegender.pipelines.evaluate.gather import is_among
from agegender.pipelines.evaluate.run import run_evaluate
from agegender.schema import SPLIT, age_group, prediction_schema

pytestmark = pytest.mark.usefixtures("ray_cluster")

IMAGES = 40


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled images of noise, one file that is no image and one name without labels."""
    folder = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    for index in range(IMAGES):
        name = f"{index * 2 + 1}_{index % 2}_{index % 5}_201701{index:011d}.jpg"
        (folder / name).write_bytes(encode_jpeg(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)))
    (folder / "33_1_0_20170101000000999.jpg").write_bytes(b"no image")
    (folder / "unnamed.jpg").write_bytes(encode_jpeg(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)))
    return folder


def evaluate(source: Path, output: Path, model: Path, **options: object) -> dict[str, Any]:
    given = {"input": [str(source)], "output": str(output), "model": str(model), "unit_images": 16}
    return run_evaluate(EvaluateConfig(**given | {"bootstrap_rounds": 100, "num_workers": 1} | options))


def write_split(to: Path, paths: list[Path], parts: list[str]) -> Path:
    hashes = [hashlib.sha256(path.read_bytes()).digest()[:16] for path in paths]
    columns = {"uri": [f"elsewhere/{p.name}" for p in paths], "content_hash": hashes, "group": hashes, "part": parts}
    empty = {field.name: [None] * len(paths) for field in SPLIT}
    pq.write_table(pa.table({**empty, **columns}, schema=SPLIT), to)
    return to


@pytest.fixture(scope="module")
def evaluated(faces: Path, tiny_model: Path, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated") / "out"
    evaluate(faces, output, tiny_model)
    return output


def test_the_metrics_are_those_of_the_predictions(evaluated: Path) -> None:
    metrics = json.loads((evaluated / "metrics.json").read_text())
    frame = pq.read_table(evaluated / "predictions.parquet").to_pandas()
    frame = frame[(frame.status == "ok") & frame.true_age_years.notna()]
    assert metrics["n"] == metrics["n_age"] == len(frame) == IMAGES
    error = (frame.age_years - frame.true_age_years).astype(float)
    named = frame.gender.map({"male": 0, "female": 1}).astype(int)
    inside = (frame.true_age_years >= frame.age_low_years) & (frame.true_age_years <= frame.age_high_years)
    expected = {
        "age_mae_years": error.abs().mean(),
        "age_bias_years": error.mean(),
        "age_within_5_years": (error.abs() <= 5).mean(),
        "gender_accuracy": (named == frame.true_gender).mean(),
        "interval_coverage": inside.mean(),
        "interval_width_years": (frame.age_high_years - frame.age_low_years).astype(float).mean(),
        "age_median_error_years": error.abs().median(),
    }
    assert set(METRICS) < set(expected)
    assert metrics["n_age_range"] == 0 and metrics["age_in_range"]["value"] is None
    for name, value in expected.items():
        assert metrics[name]["value"] == pytest.approx(value, abs=1e-3)
        assert metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    assert metrics["images"]["by_status"] == {"ok": IMAGES + 1, "not_an_image": 1}
    assert metrics["images"]["unlabelled"] == 1
    assert metrics["seen_in_training"] == {"images": 0, "share": 0.0}


def test_the_files_are_what_the_contract_says(evaluated: Path, faces: Path) -> None:
    table = pq.read_table(evaluated / "predictions.parquet")
    assert table.num_rows == IMAGES + 2
    contract = prediction_schema()
    assert [table.schema.field(i) for i in range(len(contract))] == list(contract)
    first = table.slice(0, 1).to_pylist()[0]
    assert first["content_hash"] == hashlib.sha256(Path(first["uri"]).read_bytes()).digest()[:16]
    slices = pq.read_table(evaluated / "slices.parquet").to_pylist()
    groups = {row["age_group"]: row["n"] for row in slices if row["slice"] == "age_group"}
    assert groups["21-30"] == sum(age_group(i * 2 + 1) == "21-30" for i in range(IMAGES))
    assert sorted(path.name for path in evaluated.iterdir() if not path.name.startswith("_")) == [
        "metrics.json", "predictions.parquet", "report.html", "run.json", "slices.parquet",
    ]  # fmt: skip
    assert not [path for path in (evaluated / "_work").rglob("*") if path.is_file()]


def test_any_number_of_workers_gives_the_same_numbers_and_faces_are_shown_only_where_they_may(
    evaluated: Path, faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    evaluate(faces, tmp_path / "out", tiny_model, num_workers=2, unit_images=7, images=False)
    two = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert two == json.loads((evaluated / "metrics.json").read_text())
    assert "data:image/jpeg" in (evaluated / "report.html").read_text()
    assert "data:image/jpeg" not in (tmp_path / "out" / "report.html").read_text()


def test_ranges_codes_and_groups_of_a_table(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in faces.iterdir() if path.name[0].isdigit() and path.name[:2] != "33")
    ages = ["10-19", "20-29", "30-39", "more than 40"]
    rows = [
        f"{faces / name};{ages[i % 4]};{i % 2};{['East Asian', 'White', ''][i % 3]}" for i, name in enumerate(names)
    ]
    exact = f"{faces / 'unnamed.jpg'};35;0;tribe"
    (tmp_path / "labels.csv").write_text("\n".join(["file;age;gender;race", *rows, exact]))
    metrics = evaluate(tmp_path / "labels.csv", tmp_path / "out", tiny_model, gender_codes="1=male,0=female")
    frame = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pandas()
    assert (metrics["n"], metrics["n_age"], metrics["n_age_range"]) == (len(names) + 1, 1, len(names))
    ranged = frame[frame.true_age_years.isna()]
    assert set(zip(ranged.true_age_low_years, ranged.true_age_high_years, strict=True)) == {
        (10, 19), (20, 29), (30, 39), (40, 120),
    }  # fmt: skip
    inside = (ranged.age_years >= ranged.true_age_low_years) & (ranged.age_years < ranged.true_age_high_years + 1)
    assert metrics["age_in_range"]["value"] == pytest.approx(inside.mean(), abs=1e-4)
    assert metrics["age_mae_years"]["value"] == pytest.approx(
        abs(frame.age_years[frame.true_age_years == 35] - 35).item(), abs=1e-3
    )
    assert frame.true_gender.tolist().count(0) == len(names) // 2, "code 1 is male"
    slices = pq.read_table(tmp_path / "out" / "slices.parquet").to_pylist()
    groups = {row["race"]: row["n"] for row in slices if row["slice"] == "race"}
    assert groups == frame.true_race.value_counts().to_dict() and groups.keys() == {"East Asian", "white", "tribe"}
    assert {row["age_range"] for row in slices if row["slice"] == "age_range"} == {"10-19", "20-29", "30-39", "40+"}
    assert "Ages labelled as ranges" in (tmp_path / "out" / "report.html").read_text()


def test_robustness_measures_the_same_images_made_worse(
    evaluated: Path, faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    evaluate(faces, tmp_path / "out", tiny_model, robustness=True)
    plain, worse = (json.loads((out / "metrics.json").read_text()) for out in (evaluated, tmp_path / "out"))
    measured = worse.pop("robustness")
    assert plain.pop("robustness") is None
    assert {**plain, "findings": []} == {**worse, "findings": []}, "what is measured on the images as they are stays"
    assert set(measured) == set(CORRUPTIONS)
    assert {each["n"] for each in measured.values()} == {IMAGES}
    errors = {name: each["age_mae_years"]["value"] for name, each in measured.items()}
    as_they_are = plain["age_mae_years"]["value"]
    larger_than_the_network_takes = {"face_32_px", "face_48_px"}
    assert {name for name, error in errors.items() if error == as_they_are} == larger_than_the_network_takes
    assert len(set(errors.values())) == len(CORRUPTIONS) - 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(each["what"] in page for each in measured.values())
    assert not [path for path in (tmp_path / "out" / "_work").rglob("*") if path.is_file()]


def test_a_split_is_found_by_content_and_training_images_are_told(
    faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    paths = sorted(path for path in faces.iterdir() if path.name[0].isdigit() and path.name[:2] != "33")
    parts = ["test" if i % 4 == 0 else "train" for i in range(len(paths))]
    split = write_split(tmp_path / "split.parquet", paths, parts)
    model = shutil.copytree(tiny_model, tmp_path / "model")
    remember(model, [path for path, part in zip(paths, parts, strict=True) if part == "train"])
    moved = shutil.copytree(faces, tmp_path / "moved")
    for path in list(moved.iterdir()):
        path.rename(path.with_name(path.name.replace("_201701", "_201801")))

    held_out = evaluate(moved, tmp_path / "test", model, split=str(split))
    assert held_out["n"] == held_out["images"]["in_part"] == parts.count("test")
    assert held_out["seen_in_training"]["images"] == 0
    everything = evaluate(moved, tmp_path / "all", model)
    assert everything["seen_in_training"]["images"] == parts.count("train")
    page = (tmp_path / "all" / "report.html").read_text()
    assert page.index("trained on") < page.index("<h1>")
    assert "trained on" not in (tmp_path / "test" / "report.html").read_text()


def remember(model: Path, paths: list[Path]) -> None:
    """Write the training images into a model folder, as training does."""
    keys = [int.from_bytes(hashlib.sha256(path.read_bytes()).digest()[:8], "little") for path in paths]
    np.unique(np.array(keys, np.uint64)).astype("<u8").tofile(model / "training_images.u64")
    info = json.loads((model / "model.json").read_text())
    info["files"]["training_images.u64"] = hashlib.sha256((model / "training_images.u64").read_bytes()).hexdigest()
    (model / "model.json").write_text(json.dumps(info))


def test_nothing_to_measure_says_what_to_do_and_leaves_the_output_free(
    faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    unlabelled = tmp_path / "unlabelled"
    unlabelled.mkdir()
    shutil.copy(faces / "unnamed.jpg", unlabelled)
    with pytest.raises(InputError, match=r"none of the 1 images in .* has a label"):
        evaluate(unlabelled, tmp_path / "out", tiny_model)
    split = write_split(tmp_path / "split.parquet", [faces / "unnamed.jpg"], ["train"])
    with pytest.raises(InputError, match="no image in part test; it holds train"):
        evaluate(faces, tmp_path / "out", tiny_model, split=str(split))
    foreign = tmp_path / "other.jpg"
    foreign.write_bytes(b"other bytes")
    other = write_split(tmp_path / "other.parquet", [foreign], ["test"])
    with pytest.raises(InputError, match="is in part test of"):
        evaluate(faces, tmp_path / "out", tiny_model, split=str(other))
    with pytest.raises(InputError, match=r"absent\.parquet"):
        evaluate(faces, tmp_path / "out", tiny_model, split=str(tmp_path / "absent.parquet"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_model_that_cannot_be_used_ends_the_job_before_anything_is_written(faces: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model"):
        evaluate(faces, tmp_path / "out", tmp_path / "model")
    assert not (tmp_path / "out").exists()


def test_an_output_of_another_run_is_left_alone(evaluated: Path, faces: Path, tiny_model: Path) -> None:
    before = (evaluated / "metrics.json").read_bytes()
    assert evaluate(faces, evaluated, tiny_model)["n"] == IMAGES
    with pytest.raises(ConfigError, match="seed was 0, is now 1"):
        evaluate(faces, evaluated, tiny_model, seed=1)
    assert (evaluated / "metrics.json").read_bytes() == before


def test_a_key_is_found_by_the_first_eight_bytes() -> None:
    digests = [hashlib.sha256(bytes([i])).digest()[:16] for i in range(50)]
    keys = np.unique(np.frombuffer(b"".join(digests[:25]), "<u8")[::2])
    assert [is_among(keys, digest) for digest in digests] == [True] * 25 + [False] * 25
