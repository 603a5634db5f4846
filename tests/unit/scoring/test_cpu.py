import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest

from agegender.errors import InputError
from agegender.scoring.cpu import CpuScorer, Predictions


def same_bits(one: Predictions, rows: slice | int, other: Predictions, other_rows: slice | int) -> bool:
    pairs = ((getattr(one, each.name), getattr(other, each.name)) for each in fields(Predictions))
    return all(a is b is None or a[rows].tobytes() == b[other_rows].tobytes() for a, b in pairs)


def test_predictions_are_what_the_contract_says(model_folder, images):
    scorer = CpuScorer(model_folder)
    assert scorer.image_size_px == 48 and scorer.info.network.backbone == "compact"
    scored = scorer.score(images)
    assert len(scored) == 40
    for each in fields(Predictions):
        assert getattr(scored, each.name).dtype == np.float32
    assert scored.age_years.std() > 0.3 and scored.female_probability.std() > 0.01
    assert np.all((scored.age_years >= 0) & (scored.age_years <= 120))
    years = np.arange(121)
    probabilities = scored.age_probabilities
    assert probabilities is not None
    middle = probabilities @ years
    spread = np.sqrt((probabilities * (years - middle[:, None]) ** 2).sum(axis=1))
    assert spread.min() > 1 and spread.std() > 0.1
    assert np.allclose(scored.age_low_years, np.maximum(scored.age_years - 0.4 * spread, 0), atol=2e-3)
    assert np.allclose(scored.age_high_years, np.minimum(scored.age_years + 0.6 * spread, 120), atol=2e-3)
    assert np.all((scored.female_probability > 0) & (scored.female_probability < 1))
    assert probabilities.shape == (40, 121)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    below = probabilities.cumsum(axis=1)
    for age, row in zip(scored.age_years, below, strict=True):
        assert np.interp(0.5, [0.0, *row], np.arange(122) - 0.5) == pytest.approx(age, abs=1e-3), "the median"


def test_a_scalar_head_has_no_probabilities(scalar_folder, images):
    scored = CpuScorer(scalar_folder).score(images[:5])
    assert scored.age_probabilities is None and scored.age_years.shape == (5,)
    assert np.allclose(scored.age_high_years, np.minimum(scored.age_years + 0.6, 120), atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fixture", ["model_folder", "scalar_folder", "mobilenet_folder"])
def test_a_result_is_the_same_bits_alone_in_company_and_at_any_place(fixture, threads, images, request):
    scorer = CpuScorer(request.getfixturevalue(fixture), threads=threads, batch_size=16)
    whole = scorer.score(images)
    assert same_bits(scorer.score(images[:7]), slice(0, 7), whole, slice(0, 7))
    turned = scorer.score(np.roll(images, 13, axis=0))
    for place in range(16):
        assert same_bits(scorer.score(images[place : place + 1]), 0, whole, place)
        assert same_bits(turned, (place + 13) % 40, whole, place)


def test_the_number_of_threads_does_not_change_the_bits(model_folder, images):
    one, two = (CpuScorer(model_folder, threads=threads).score(images) for threads in (1, 2))
    assert same_bits(one, slice(None), two, slice(None))


def test_nothing_in_nothing_out(model_folder):
    scored = CpuScorer(model_folder).score(np.zeros((0, 48, 48, 3), np.uint8))
    assert len(scored) == 0
    assert scored.age_probabilities is not None
    assert scored.age_probabilities.shape == (0, 121)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 48, 48, 3), np.float32), np.zeros((48, 48, 3), np.uint8)],
)
def test_images_of_another_shape_or_type_are_refused(model_folder, wrong):
    with pytest.raises(ValueError, match=r"expected uint8\[N, 48, 48, 3\]"):
        CpuScorer(model_folder).score(wrong)


def replace_graph(folder, data: bytes) -> None:
    (folder / "model.onnx").write_bytes(data)
    path = folder / "model.json"
    content = json.loads(path.read_text())
    content["files"]["model.onnx"] = hashlib.sha256(data).hexdigest()
    path.write_text(json.dumps(content))


def test_a_graph_that_is_none_or_another_is_refused(model_folder, scalar_folder, tmp_path):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    replace_graph(folder, b"this is no graph")
    with pytest.raises(InputError, match=r"model\.onnx: ONNX Runtime .* cannot run this graph"):
        CpuScorer(folder)
    replace_graph(folder, (scalar_folder / "model.onnx").read_bytes())
    with pytest.raises(InputError, match=r"not the graph that model\.json describes"):
        CpuScorer(folder)


def test_scoring_needs_no_torch(model_folder):
    code = (
        "import sys, pathlib, numpy, agegender.scoring.cpu as cpu;"
        "cpu.CpuScorer(pathlib.Path(sys.argv[1])).score(numpy.zeros((1, 48, 48, 3), numpy.uint8));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model_folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr or "torch was imported"
