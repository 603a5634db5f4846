"""The released models: complete, small, and with unchanged predictions. Each of those that are here."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agegender import released
from agegender.artifact import FaceSizeCalibration
from agegender.config import RELEASED_MODEL, RELEASED_MODELS
from agegender.data.synthetic import draw_face
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.gpu import TorchScorer
from agegender.scoring.load import open_model

WEIGHTS_BYTES = {"fast": 7_000_000, "accurate": 16_000_000, "open": 6_000_000}

ACROSS_CPUS = {"age_years": 0.05, "age_low_years": 0.1, "age_high_years": 0.1, "female_probability": 0.005}
"""What the same graph may differ by on another type of CPU."""


@pytest.fixture(params=released.installed())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str) -> Path:
    return released.folder(name)


@pytest.fixture
def golden(name: str) -> Any:
    return json.loads((Path(__file__).parent / "golden" / f"{name}.json").read_text())


def test_the_default_is_here_and_no_folder_has_another_name() -> None:
    assert RELEASED_MODEL in released.installed()
    folders = {path.parent.parent.name for path in Path(released.__file__).parent.glob("*/model/model.json")}
    assert folders == set(released.installed()) <= set(RELEASED_MODELS) == WEIGHTS_BYTES.keys()


def test_it_is_whole_and_small(name: str, folder: Path) -> None:
    open_model(folder)
    assert (folder / "weights.safetensors").stat().st_size <= WEIGHTS_BYTES[name]


def test_it_says_of_drawn_faces_what_it_said(folder: Path, golden: Any) -> None:
    scorer = CpuScorer(folder)
    drawn = np.stack(
        [draw_face(age, gender, i, scorer.image_size_px) for i, (age, gender) in enumerate(golden["faces"])]
    )
    predictions = scorer.score(drawn)
    for column, tolerance in ACROSS_CPUS.items():
        assert getattr(predictions, column) == pytest.approx(golden[column], abs=tolerance), column
    assert np.std(golden["age_years"]) > 1, "predictions that do not vary would prove nothing"


def test_it_is_calibrated_for_small_faces(folder: Path) -> None:
    table = open_model(folder).calibration.by_face_size
    sizes = [row.face_px for row in table]
    assert sizes == sorted(sizes) and sizes[0] <= 16 and table[-1] == FaceSizeCalibration(face_px=sizes[-1])
    widening = [row.age_low_factor + row.age_high_factor for row in table]
    assert widening == sorted(widening, reverse=True) and widening[0] > 2.2


def test_its_graph_says_what_its_weights_say_of_500_images(folder: Path) -> None:
    graph, weights = CpuScorer(folder, threads=2), TorchScorer(folder, "cpu")
    rng = np.random.default_rng(0)
    ages, seeds = rng.uniform(0, 100, 500), range(500)
    side = graph.image_size_px
    drawn = np.stack([draw_face(float(age), seed % 2, seed, side) for age, seed in zip(ages, seeds, strict=True)])
    one, other = graph.score(drawn), weights.score(drawn)
    for column in ("age_years", "age_low_years", "age_high_years"):
        assert np.abs(getattr(one, column) - getattr(other, column)).max() < 0.01, column
    assert np.abs(one.female_probability - other.female_probability).max() < 1e-3


def test_the_card_is_of_this_model_and_tells_no_place(name: str, folder: Path) -> None:
    card = (folder.parent / "MODEL_CARD.md").read_text()
    assert f"`{name}`" in card.splitlines()[0]
    for path in folder.iterdir():
        if path.name != "model.json":
            assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    info = json.loads((folder / "model.json").read_text())
    assert info["model_id"] in card
    assert not {"output", "address", "cache_dir"} & info["config"].keys()


def test_the_terms_are_those_of_what_it_learnt_from(name: str, folder: Path) -> None:
    terms = (folder.parent / "WEIGHTS_LICENSE.md").read_text()
    assert ("CC BY 4.0" in terms and "FairFace" in terms) if name == "open" else "non-commercial research" in terms
