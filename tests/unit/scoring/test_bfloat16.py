import subprocess
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import openvino
import pytest

from agegender import processor, released
from agegender.errors import InputError
from agegender.scoring import openvino_graphs
from agegender.scoring.cpu import CpuScorer, Predictions

needs_bfloat16 = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this CPU does not compute in bfloat16",
)


def same_bits(one: Predictions, other: Predictions) -> bool:
    return all(np.array_equal(getattr(one, each.name), getattr(other, each.name)) for each in fields(Predictions)[:4])


@needs_bfloat16
@pytest.mark.parametrize("fixture", ["model_folder", "scalar_folder"])
def test_bfloat16_is_close_to_float32_and_the_same_bits_in_any_company(fixture, images, request):
    folder = request.getfixturevalue(fixture)
    exact, quick = CpuScorer(folder).score(images), CpuScorer(folder, 1, 16, "bfloat16").score(images)
    assert not same_bits(exact, quick)
    assert np.abs(quick.age_years - exact.age_years).mean() < 0.05 * exact.age_years.std()
    assert np.abs(quick.female_probability - exact.female_probability).max() < 0.05
    turned = CpuScorer(folder, 2, 16, "bfloat16").score(np.roll(images, 13, axis=0))
    parts: dict[str, Any] = {
        each.name: None if (value := getattr(turned, each.name)) is None else np.roll(value, -13, axis=0)
        for each in fields(Predictions)
    }
    assert same_bits(Predictions(**parts), quick), "of place, company and threads"


@needs_bfloat16
def test_of_the_released_model_it_changes_next_to_nothing(images):
    side = CpuScorer(released.FOLDER).image_size_px
    faces = np.stack([np.kron(each, np.ones((3, 3, 1), np.uint8))[:side, :side] for each in images])
    exact, quick = (
        CpuScorer(released.FOLDER, precision=precision).score(faces) for precision in ("float32", "bfloat16")
    )
    assert np.abs(quick.age_years - exact.age_years).mean() <= 0.05
    assert np.mean((quick.female_probability >= 0.5) != (exact.female_probability >= 0.5)) <= 0.05
    assert quick.age_probabilities is not None
    sums = quick.age_probabilities.sum(axis=1)
    assert np.allclose(sums, 1, atol=1e-5), "sums of probabilities are not rounded to bfloat16"


@pytest.mark.parametrize("faster", [True, False])
def test_auto_is_bfloat16_where_the_cpu_is_faster_in_it(faster, model_folder, images, monkeypatch):
    monkeypatch.setattr(processor, "is_faster_in_bfloat16", lambda: faster)
    monkeypatch.setattr(processor, "is_faster_in_int8", lambda: False)
    scorer = CpuScorer(model_folder, precision="auto")
    assert scorer.precision == ("bfloat16" if faster else "float32")
    assert same_bits(scorer.score(images), CpuScorer(model_folder, precision=scorer.precision).score(images))
    assert CpuScorer(model_folder).precision == "float32"


def test_a_graph_that_is_none_or_foreign_is_refused(model_folder, tmp_path):
    with pytest.raises(InputError, match=rf"none\.onnx: OpenVINO {openvino.__version__[:4]}.* cannot run this graph"):
        openvino_graphs.Bfloat16Graph(tmp_path / "none.onnx", (1, 48, 48, 3), 1, ["age_years"])
    with pytest.raises(InputError, match="cannot run this graph"):
        openvino_graphs.Bfloat16Graph(model_folder / "model.onnx", (1, 48, 48, 3), 1, ["no_such_output"])


@needs_bfloat16
def test_it_needs_no_torch_either(model_folder):
    code = (
        "import sys, pathlib, numpy, agegender.scoring.cpu as cpu;"
        "scorer = cpu.CpuScorer(pathlib.Path(sys.argv[1]), precision='bfloat16');"
        "scorer.score(numpy.zeros((1, 48, 48, 3), numpy.uint8));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(model_folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr or "torch was imported"
