"""`make release`: its commands, what it refuses, and the card that it writes of made-up evaluations."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import release
import release_card
from release_card import Made
from release_sets import SETS

from agegender import released
from agegender.artifact import CALIBRATION_IMAGES_FILE, INFO_FILE, TRAINING_IMAGES_FILE, image_keys
from agegender.config import RELEASED_MODELS, EvaluateConfig
from agegender.evaluation import calibration, slices
from agegender.evaluation.findings import findings
from agegender.evaluation.metrics import MetricSums, Observations, bucketed
from agegender.evaluation.selective import selective_prediction
from agegender.scoring.load import open_model
from agegender.settings import parse_config
from agegender.training_config import TrainConfig
from tests.support.observed import of_exact_ages, of_ranges

ROOT = Path(__file__).parents[2]
RANGES = [(0, 2), (3, 9), (10, 19), (20, 29), (30, 39)]


def exact(n: int = 400) -> Observations:
    rng = np.random.default_rng(0)
    age = rng.integers(1, 90, n).astype(np.float32)
    estimate = np.clip(age + rng.normal(0, 5, n), 0, 120).astype(np.float32)
    gender, race = rng.integers(0, 2, n).astype(np.int8), rng.integers(0, 5, n).astype(np.int8)
    female = np.clip(0.8 * gender + rng.random(n) * 0.3, 0, 1).astype(np.float32)
    return of_exact_ages(age, gender, race, estimate, estimate - 8, estimate + 8, female)


def ranged(n: int = 500) -> Observations:
    rng = np.random.default_rng(1)
    low, high = np.array(RANGES)[rng.integers(0, len(RANGES), n)].T
    estimates = np.clip((low + high) / 2 + rng.normal(0, 3, n), 0, 120)
    images = of_ranges(list(zip(low.tolist(), high.tolist(), strict=True)), estimates.tolist(), 10)
    gender, race = rng.integers(0, 2, n).astype(np.int8), rng.integers(0, 5, n).astype(np.int8)
    female = np.clip(0.7 * gender + rng.random(n) * 0.4, 0, 1).astype(np.float32)
    return replace(images, gender_true=gender, race=race, female_probability=female)


def evaluated(images: Observations, inputs: list[str], model_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """metrics.json and the rows of slices.parquet, as `agegender evaluate --robustness` writes them."""
    images = bucketed(images)
    sums = MetricSums.of(images)
    bounded = slices.bounded_metrics(images, 100, 0)
    error = calibration.gender_calibration_error(images)
    metrics = {
        "n": sums.images,
        **bounded,
        "interval_coverage_promised": 0.9,
        "gender_calibration_error": error,
        "interval_by_age_group": {by: calibration.interval_by_group(images, by) for by in ("estimated", "true")},
        "age_assurance": slices.age_assurance(images),
        "selective_prediction": selective_prediction(images),
        "robustness": {
            "blur": {"what": "Gaussian blur", "n": sums.images, **bounded, "gender_calibration_error": error}
        },
        "seen_in_training": {"images": 0, "share": 0.0},
        "input": inputs,
        "model": {"model_id": model_id},
    }
    rows = slices.slice_rows(images, 100, 0)
    return metrics | {"findings": findings(metrics, rows)}, rows


def made_up(slicing: str, n: int, gender: float, **values: Any) -> dict[str, Any]:
    """A row of slices.parquet that tells sources, or races and ages together, apart."""
    bounds = {"gender_accuracy": gender, "gender_accuracy_low": gender - 0.03, "gender_accuracy_high": gender + 0.02}
    numbers = {"n": n, "n_gender": n, "n_age": 0, "n_age_range": n if "age_range" in slicing else 0}
    return {**dict.fromkeys(("source", *slices.SCHEMA.names)), "slice": slicing, **numbers, **bounds, **values}


def split_rows(counts: dict[str | None, tuple[int, int, int]]) -> list[dict[str, Any]]:
    parts = [
        (source, part, n)
        for source, each in counts.items()
        for part, n in zip(("train", "val", "test"), each, strict=True)
    ]
    rows = [{"source": source, "part": part} for source, part, n in parts for _ in range(n)]
    return [{**row, "content_hash": number.to_bytes(8, "little") + bytes(8)} for number, row in enumerate(rows, 1)]


def test_a_card_of_several_sets_tells_each_apart(tiny_model: Path) -> None:
    images = Observations.joined([exact(), ranged()])
    metrics, rows = evaluated(images, ["/data/here/UTKFace/", "/data/here/fairface"], open_model(tiny_model).model_id)
    rows += [
        made_up(
            "source",
            400,
            0.97,
            source="UTKFace",
            age_mae_years=4.31,
            age_mae_years_low=4.1,
            age_mae_years_high=4.5,
            n_age=400,
        ),
        made_up("source", 500, 0.91, source="fairface", age_bucket_accuracy=0.574, n_age_range=500),
        made_up("age_range x race", 140, 0.79, race="Black", age_range="3-9"),
        made_up("age_range x race", 99, 0.50, race="Indian", age_range="3-9"),
        made_up("age_range x race", 300, 0.82, race="White", age_range="0-2"),
    ]
    split = split_rows({"UTKFace": (80, 10, 11), "fairface": (160, 20, 21)})
    text = release_card.card(Made("accurate", tiny_model, ["utkface", "fairface"], "--epochs 3"), metrics, rows, split)
    assert text.startswith("# Model card: `accurate`, a model that comes with agegender\n")
    assert "| UTKFace | 400 | 4.3 (4.1 to 4.5) |  | 97 (94 to 99) |" in text
    assert "| FairFace | 500 |  | 57 | 91 (88 to 93) |" in text
    assert "`agegender train --input UTKFace --faces none --input fairface --faces detect --epochs 3`" in text
    assert re.search(r"\| FairFace, Karkkainen and Joo \(WACV 2021\) \|.*\| CC BY 4.0 \| 160 \| 20 \| 21 \|", text)
    assert "Of 2 cells with 100 images or more" in text
    assert "- Black, aged 3-9, n = 140: 79% (76% to 81%), against 91%" in text
    assert "Indian, aged" not in text and "White, aged" not in text, "fewer than 100 images, and within 10 points"
    assert "### Children" in text and re.search(r"\| 1-10 \| \d+ \| \d+ \(\d+ to \d+\) \|", text)
    assert "non-commercial research" in text and "CC BY 4.0](WEIGHTS" not in text
    assert "/data" not in text
    for path in tiny_model.iterdir():
        assert f"| `{path.name}` | {path.stat().st_size:,} |" in text
    assert_tables_are_whole(text)


def test_a_card_of_ranges_alone_has_no_years(tiny_model: Path) -> None:
    metrics, rows = evaluated(ranged(), ["fairface/"], open_model(tiny_model).model_id)
    text = release_card.card(Made("open", tiny_model, ["fairface"], ""), metrics, rows, split_rows({None: (8, 1, 2)}))
    assert "[CC BY 4.0](WEIGHTS_LICENSE.md)" in text and "It began with random weights." in text
    assert "MAE" not in text.split("What stands out")[0] and "bucket right" in text
    assert "| FairFace | 500 |" in text and "### What abstaining gains" not in text
    assert "No cell has 100 images" in text
    rows.append(made_up("age_range x race", 140, 0.95, race="Black", age_range="3-9"))
    text = release_card.card(Made("open", tiny_model, ["fairface"], ""), metrics, rows, split_rows({None: (8, 1, 2)}))
    assert "In none of the 1 cells with 100 images or more" in text
    assert_tables_are_whole(text)


def test_a_card_of_one_set_of_years_is_as_it_was(tiny_model: Path) -> None:
    metrics, rows = evaluated(exact(), ["UTKFace/"], open_model(tiny_model).model_id)
    split = [{name: value for name, value in row.items() if name != "source"} for row in split_rows({None: (8, 1, 2)})]
    text = release_card.card(Made("fast", tiny_model, ["utkface"], ""), metrics, rows, split)
    assert "the default of the models" in text and "bucket right" not in text and "All of them together" not in text
    assert "| UTKFace | 400 |" in text and "### By race" in text and "### What abstaining gains" in text
    assert re.search(r"\| UTKFace, .*\| 8 \| 1 \| 2 \|", text)
    assert_tables_are_whole(text)


def assert_tables_are_whole(text: str) -> None:
    """Each line of a table has as many columns as its head."""
    width = 0
    for line in text.splitlines():
        columns = line.count("|") if line.startswith("|") else 0
        assert not (width and columns) or columns == width, line
        width = columns


def test_a_source_that_is_no_input_is_refused() -> None:
    rows: list[dict[str, Any]] = [{"source": "a/faces"}, {"source": "b/faces"}, {"source": None}]
    named = release_card.with_titles(rows, ["x/a/faces", "x/b/faces/"], ["utkface", "fairface"])
    assert [row["source"] for row in named] == ["UTKFace", "FairFace", None]
    with pytest.raises(SystemExit, match="source c of the evaluation is not one of its inputs"):
        release_card.with_titles([{"source": "c"}], ["a", "b"], ["utkface", "fairface"])


def model_with(folder: Path, tiny_model: Path, training: np.ndarray[Any, Any] | None = None, **config: Any) -> Path:
    shutil.copytree(tiny_model, folder)
    info = open_model(folder)
    info.config.update(config)
    if training is not None:
        (folder / TRAINING_IMAGES_FILE).write_bytes(training.astype("<u8").tobytes())
        for name in (TRAINING_IMAGES_FILE, CALIBRATION_IMAGES_FILE):
            info.files[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / INFO_FILE).write_text(info.model_dump_json())
    return folder


def test_open_is_refused_what_has_learnt_from_more_than_fairface(tiny_model: Path, tmp_path: Path) -> None:
    keys = np.array([1, 2, 3], np.uint64)

    def check(model: Path, sets: list[str]) -> None:
        release.check_open(list(release.lineage(str(model))), sets, keys)

    teacher = model_with(tmp_path / "teacher", tiny_model, np.array([2, 3]))
    check(model_with(tmp_path / "own", tiny_model, np.array([1, 3]), teacher=[str(teacher)]), ["fairface"])
    tuned = model_with(tmp_path / "tuned", tiny_model, weights="faceres.safetensors")
    foreign = model_with(tmp_path / "foreign", tiny_model, np.array([3, 4, 5]))
    taught = model_with(tmp_path / "taught", tiny_model, teacher=[str(teacher), str(foreign)])
    begun = model_with(tmp_path / "begun", tiny_model, init=str(tuned))
    file = model_with(tmp_path / "file", tiny_model, teacher=["other.safetensors"])
    for model, sets, words in (
        (tuned, ["fairface"], f"faceres.safetensors ({tuned})"),
        (begun, ["fairface"], f"faceres.safetensors ({tuned})"),
        (foreign, ["fairface"], "2 images that are not in its split"),
        (taught, ["fairface"], f"2 images that are not in its split ({foreign})"),
        (file, ["fairface"], "other.safetensors"),
        (teacher, ["utkface", "fairface"], "learnt from utkface"),
    ):
        with pytest.raises(SystemExit, match=re.escape(words)):
            check(model, sets)


def test_the_card_says_whose_network_it_has_learnt_from(tiny_model: Path, tmp_path: Path) -> None:
    tuned = model_with(tmp_path / "tuned", tiny_model, weights="faceres.safetensors")
    taught = model_with(tmp_path / "taught", tiny_model, teacher=[str(tuned)])
    said = [release.pretrained(list(release.lineage(str(model)))) for model in (tiny_model, tuned, taught)]
    assert said[0] == "" and said[1].startswith("Its backbone began as HSE's FaceRes")
    assert said[2].startswith("A network that it began as, or that taught it, began as HSE's FaceRes")
    metrics, rows = evaluated(exact(), ["UTKFace/"], open_model(taught).model_id)
    made = Made("fast", taught, ["utkface"], "", said[2])
    text = release_card.card(made, metrics, rows, split_rows({None: (8, 1, 2)}))
    assert "| taught by | 1 other network, beside the labels |" in text
    assert said[2] in text and said[2] in release_card.weights_license(made)


def test_weights_of_a_model_folder_lead_to_what_that_model_has_learnt_from(tiny_model: Path, tmp_path: Path) -> None:
    tuned = model_with(tmp_path / "tuned", tiny_model, weights="teacher_mobilenet_v1.safetensors")
    begun = model_with(tmp_path / "begun", tiny_model, weights=f"{tuned}/weights.safetensors")
    ancestors = list(release.lineage(str(begun)))
    assert [each.weights for each in ancestors] == [f"{tuned}/weights.safetensors", "teacher_mobilenet_v1.safetensors"]
    assert "It was tuned before, on a GPU" in release.pretrained(ancestors)


def test_an_evaluation_of_another_model_or_of_seen_images_is_refused(tiny_model: Path) -> None:
    info = open_model(tiny_model)
    good = {"model": {"model_id": info.model_id}, "seen_in_training": {"images": 0}, "input": ["a"]}
    release.check_evaluation(good, info, ["utkface"])
    for changed in ({"model": {"model_id": "other"}}, {"seen_in_training": {"images": 1}}, {"input": ["a", "b"]}):
        with pytest.raises(SystemExit):
            release.check_evaluation(good | changed, info, ["utkface"])


@pytest.mark.parametrize("name", RELEASED_MODELS)
def test_it_puts_model_card_terms_and_golden_values_in_place(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, evaluation, golden = tmp_path / "train", tmp_path / "evaluation", tmp_path / "golden"
    split = split_rows({"fairface": (3, 1, 1)})
    keys = image_keys(row["content_hash"] for row in split)
    model = model_with(
        train / "model", tiny_model, keys[:4], input=["/home/me/fairface/"], detector_model="/x/yunet.onnx"
    )
    pq.write_table(pa.Table.from_pylist(split), train / "split.parquet")
    metrics, rows = evaluated(ranged(), ["/home/me/fairface/"], open_model(model).model_id)
    evaluation.mkdir()
    golden.mkdir()
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    pq.write_table(pa.Table.from_pylist(rows, slices.SCHEMA), evaluation / "slices.parquet")
    monkeypatch.setattr(released, "folder", lambda each: tmp_path / "released" / each / "model")
    monkeypatch.setattr(release, "GOLDEN", golden)
    given = [
        "--model",
        name,
        "--train",
        str(train),
        "--evaluation",
        str(evaluation),
        "--sets",
        "fairface",
        "--flags=--seed 1",
    ]
    monkeypatch.setattr(sys, "argv", ["release.py", *given])
    release.main()
    placed = tmp_path / "released" / name
    assert open_model(placed / "model").config["input"] == ["fairface/"]
    assert "/home/me" not in "".join(path.read_text() for path in (*placed.glob("*.md"), placed / "model" / INFO_FILE))
    terms = (placed / "WEIGHTS_LICENSE.md").read_text()
    assert ("CC BY 4.0" in terms and "Karkkainen" in terms and "commercially, nor" not in terms) == (name == "open")
    assert len(json.loads((golden / f"{name}.json").read_text())["age_years"]) == len(release.FACES)


def made_by(*arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MODEL", "SOURCES")}
    command = ["make", "--dry-run", "--assume-old", ".venv/.installed", "release", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", RELEASED_MODELS)
def test_each_model_is_made_by_commands_that_the_command_line_takes(name: str) -> None:
    done = made_by(
        f"MODEL={name}",
        "UTKFACE=/u/UTKFace",
        "FAIRFACE=/f/fairface",
        "ALLAGEFACES=/a/aaf",
        "FACERES=/w/faceres.safetensors",
    )
    commands = [shlex.split(line) for line in done.stdout.replace("\\\n", " ").splitlines()]
    jobs = {each[1]: each[2:] for each in commands if each[0].endswith("/agegender")}
    trained = parse_config(TrainConfig, jobs["train"], "agegender train")
    measured = parse_config(EvaluateConfig, jobs["evaluate"], "agegender evaluate")
    (script,) = [each for each in commands if "benchmarks/release.py" in each]
    sets = script[script.index("--sets") + 1 : script.index("--sets") + 1 + len(trained.input)]
    assert trained.input == measured.input and len(sets) == len(set(sets) & SETS.keys())
    assert sets == ["fairface"] if name == "open" else len(sets) == 3
    assert measured.robustness and measured.part == "test"
    assert measured.model == f"{trained.output}/model" and measured.split == f"{trained.output}/split.parquet"
    assert not any("/w/" in word for word in script), "the card tells no place"
    assert (trained.weights is None) if name == "open" else True


def test_another_name_is_refused() -> None:
    env = dict(os.environ, MAKEFLAGS="")
    command = ["make", "--assume-old", ".venv/.installed", "release", "MODEL=best", "RUN=/nowhere"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "MODEL=best: not one of fast accurate open" in done.stdout
