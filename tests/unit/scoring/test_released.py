"""The released model: complete, small, and with unchanged predictions."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from agegender import released
from agegender.artifact import FaceSizeCalibration
from agegender.data.synthetic import draw_face
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.gpu import TorchScorer
from agegender.scoring.load import open_model

GOLDEN = json.loads((Path(__file__).parent / "released_golden.json").read_text())

ACROSS_CPUS = {"age_years": 0.05, "age_low_years": 0.1, "age_high_years": 0.1, "female_probability": 0.005}
"""What the same graph may differ by on another type of CPU."""


def test_it_is_whole_and_small() -> None:
    open_model(released.FOLDER)
    sizes = {path.name: path.stat().st_size for path in released.FOLDER.iterdir()}
    assert sizes["weights.safetensors"] <= 6_000_000
    assert sum(sizes.values()) <= 12_000_000


def test_it_says_of_drawn_faces_what_it_said() -> None:
    scorer = CpuScorer(released.FOLDER)
    drawn = np.stack(
        [draw_face(age, gender, i, scorer.image_size_px) for i, (age, gender) in enumerate(GOLDEN["faces"])]
    )
    predictions = scorer.score(drawn)
    for name, tolerance in ACROSS_CPUS.items():
        assert getattr(predictions, name) == pytest.approx(GOLDEN[name], abs=tolerance), name
    assert np.std(GOLDEN["age_years"]) > 1, "predictions that do not vary would prove nothing"


def test_it_is_calibrated_for_small_faces() -> None:
    table = open_model(released.FOLDER).calibration.by_face_size
    sizes = [row.face_px for row in table]
    assert sizes == sorted(sizes) and sizes[0] <= 16 and table[-1] == FaceSizeCalibration(face_px=sizes[-1])
    widening = [row.age_low_factor + row.age_high_factor for row in table]
    assert widening == sorted(widening, reverse=True) and widening[0] > 3


def test_its_graph_says_what_its_weights_say_of_500_images() -> None:
    graph, weights = CpuScorer(released.FOLDER, threads=2), TorchScorer(released.FOLDER, "cpu")
    rng = np.random.default_rng(0)
    ages, seeds = rng.uniform(0, 100, 500), range(500)
    side = graph.image_size_px
    drawn = np.stack([draw_face(float(age), seed % 2, seed, side) for age, seed in zip(ages, seeds, strict=True)])
    one, other = graph.score(drawn), weights.score(drawn)
    for name in ("age_years", "age_low_years", "age_high_years"):
        assert np.abs(getattr(one, name) - getattr(other, name)).max() < 0.01, name
    assert np.abs(one.female_probability - other.female_probability).max() < 1e-3


def test_the_card_is_of_this_model_and_tells_no_place() -> None:
    card = (Path(released.__file__).parent / "MODEL_CARD.md").read_text()
    for path in released.FOLDER.iterdir():
        if path.name != "model.json":
            assert hashlib.sha256(path.read_bytes()).hexdigest() in card
    info = json.loads((released.FOLDER / "model.json").read_text())
    assert info["model_id"] in card
    assert not {"output", "address", "cache_dir"} & info["config"].keys()
