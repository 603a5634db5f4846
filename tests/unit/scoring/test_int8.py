import hashlib
import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from agegender import processor
from agegender.artifact import GRAPH_FILE, INFO_FILE, INT8_GRAPH_FILE
from agegender.config import ExportConfig, PredictConfig
from agegender.errors import ConfigError, InputError
from agegender.model.batches import Samples
from agegender.pipelines.export import run_export
from agegender.pipelines.predict.scoring import check_run
from agegender.pipelines.train.int8 import add_int8, compare
from agegender.scoring.cpu import CpuScorer, Predictions, resolve_precision
from agegender.scoring.load import LocalModel, open_model
from tests.unit.scoring.conftest import smooth_pictures

FOLDERS = ["model_folder", "scalar_folder", "mobilenet_folder"]

EXACT = {
    "model_folder": ["/network/backbone/stem/stem.0/Conv", "/network/backbone/pool/pool.0/Conv"],
    "scalar_folder": ["/network/backbone/layers/layers.0/Conv"],
    "mobilenet_folder": [f"/network/backbone/{name}/Conv" for name in ("stem", "dw.0", "pw.0", "dw.1", "pw.1", "dw.2")],
}
"""Convolutions that stay in float32."""


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def int8_weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    stored = {each.name: each for each in model.graph.initializer}
    return {
        node.input[0]: onnx.numpy_helper.to_array(stored[node.input[0]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
        if stored[node.input[0]].data_type == onnx.TensorProto.INT8
    }


@pytest.mark.parametrize("fixture", FOLDERS)
def test_the_backbone_is_quantised_and_nothing_else(fixture, request):
    model = onnx.load(request.getfixturevalue(fixture) / INT8_GRAPH_FILE)
    made_by = producers(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    quantised = [node for node in convolutions if made_by[node.input[1]].op_type == "DequantizeLinear"]
    exact = [node.name for node in convolutions if node not in quantised]
    assert len(quantised) == len(int8_weights(model)) >= 3
    assert exact == EXACT[fixture], (
        "the first one, all to the third depthwise one where they are in turn, and the pool of compact"
    )
    for node in model.graph.node:
        if node.op_type in ("Gemm", "MatMul", "Softmax", "ReduceMean", "CumSum", "Sigmoid", "Pow", "Sqrt", "Gather"):
            sources = [made_by[name].op_type for name in node.input if name in made_by]
            assert "backbone" in node.name or "QuantizeLinear" not in str(sources), f"{node.name} is not in float32"


@pytest.mark.parametrize("fixture", FOLDERS)
def test_weights_take_a_byte_of_which_seven_bits_are_used(fixture, request):
    folder = request.getfixturevalue(fixture)
    weights = int8_weights(onnx.load(folder / INT8_GRAPH_FILE))
    for name, values in weights.items():
        assert np.abs(values.astype(int)).max() == 64, f"{name}: more would overflow in AVX2"
    sizes = {name: (folder / name).stat().st_size for name in (GRAPH_FILE, INT8_GRAPH_FILE)}
    assert sizes[INT8_GRAPH_FILE] < 0.85 * sizes[GRAPH_FILE]


@pytest.mark.parametrize("fixture", FOLDERS)
def test_int8_is_close_to_float32(fixture, images, request):
    folder = request.getfixturevalue(fixture)
    exact, quick = (CpuScorer(folder, precision=precision).score(images) for precision in ("float32", "int8"))
    assert not np.array_equal(exact.age_years, quick.age_years)
    assert np.abs(quick.age_years - exact.age_years).mean() < 0.25 * exact.age_years.std(), (
        "27 random layers without norms are the hardest"
    )
    assert np.abs(quick.female_probability - exact.female_probability).mean() < 0.05


@pytest.mark.parametrize("fixture", FOLDERS)
def test_a_result_is_the_same_bits_in_any_company_and_batch_size(fixture, images, request):
    folder = request.getfixturevalue(fixture)
    whole = CpuScorer(folder, batch_size=16, precision="int8").score(images)
    for threads, size in [(1, 1), (1, 5), (1, 64), (2, 16)]:
        turned = CpuScorer(folder, threads, size, "int8").score(np.roll(images, 13, axis=0))
        for each in fields(Predictions):
            one, other = getattr(whole, each.name), getattr(turned, each.name)
            assert one is other is None or np.roll(one, 13, axis=0).tobytes() == other.tobytes(), (each.name, size)


def with_info(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a model folder with other content of model.json."""
    copied = Path(shutil.copytree(folder, to))
    content = json.loads((copied / INFO_FILE).read_text())
    (copied / INFO_FILE).write_text(json.dumps(content | changes))
    return copied


def older(folder: Path, to: Path) -> Path:
    """A copy of a model folder as a release without int8 wrote it."""
    files = open_model(folder).files
    copied = with_info(folder, to, files={name: files[name] for name in files if name != INT8_GRAPH_FILE})
    content = json.loads((copied / INFO_FILE).read_text())
    del content["int8"]
    (copied / INFO_FILE).write_text(json.dumps(content))
    (copied / INT8_GRAPH_FILE).unlink()
    return copied


CLOSE = {"images": 9, "age_change_years": 0.1, "genders_changed": 1} | {
    "age_mae_years": 4.6,
    "int8_age_mae_years": 4.619,
    "gender_accuracy": 0.93,
    "int8_gender_accuracy": 0.9291,
}


@pytest.mark.parametrize(
    ("changes", "close"),
    [
        ({}, True),
        ({"int8_age_mae_years": 4.5, "int8_gender_accuracy": 0.94}, True),
        ({"int8_age_mae_years": 4.621}, False),
        ({"int8_gender_accuracy": 0.9289}, False),
        ({"age_mae_years": None, "int8_age_mae_years": None}, False),
        ({"gender_accuracy": None, "int8_gender_accuracy": None}, False),
    ],
)
def test_auto_takes_int8_only_if_it_costs_no_accuracy(changes, close, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "is_faster_in_bfloat16", lambda: False)
    monkeypatch.setattr(processor, "is_faster_in_int8", lambda: True)
    folder = with_info(model_folder, tmp_path / "model", int8=CLOSE | changes)
    assert CpuScorer(folder, precision="auto").precision == ("int8" if close else "float32")
    assert CpuScorer(folder, precision="int8").precision == "int8", "who asks for it gets it"


@pytest.mark.parametrize(
    ("bfloat16", "int8", "expected"),
    [(True, True, "bfloat16"), (False, True, "int8"), (False, False, "float32")],
)
def test_auto_takes_int8_where_the_cpu_is_faster_in_it(bfloat16, int8, expected, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "is_faster_in_bfloat16", lambda: bfloat16)
    monkeypatch.setattr(processor, "is_faster_in_int8", lambda: int8)
    info = open_model(with_info(model_folder, tmp_path / "model", int8=CLOSE))
    assert resolve_precision(info, "auto") == expected
    for precision in ("float32", "bfloat16", "int8"):
        assert resolve_precision(info, precision) == precision


def test_a_model_folder_without_the_graph_is_scored_as_before(model_folder, images, tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "is_faster_in_bfloat16", lambda: False)
    monkeypatch.setattr(processor, "is_faster_in_int8", lambda: True)
    folder = older(model_folder, tmp_path / "older")
    scorer = CpuScorer(folder, precision="auto")
    assert scorer.precision == "float32" and scorer.info.int8 is None
    assert np.array_equal(scorer.score(images).age_years, CpuScorer(model_folder).score(images).age_years)
    with pytest.raises(ConfigError, match=r"--precision int8: .*older has no model\.int8\.onnx"):
        CpuScorer(folder, precision="int8")


def test_a_damaged_graph_is_refused(model_folder, tmp_path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    (folder / INT8_GRAPH_FILE).write_bytes(b"cut off")
    with pytest.raises(InputError, match=r"model\.int8\.onnx: damaged model"):
        open_model(folder)


def test_only_runs_that_may_use_the_graph_depend_on_it(model_folder, tmp_path):
    info, before = open_model(model_folder), open_model(older(model_folder, tmp_path / "older"))
    for precision in ("float32", "bfloat16"):
        assert info.identity(precision) == before.identity(precision)
    for precision in ("auto", "int8"):
        assert info.identity(precision)["model_files"] == info.files
        assert info.identity(precision) != before.identity(precision)


def test_predict_refuses_int8_before_it_writes_anything(model_folder, tmp_path):
    given = {"input": ["photos"], "output": str(tmp_path / "out"), "faces": "none", "precision": "int8"}
    run = check_run(PredictConfig(**given, model=str(model_folder)))
    assert run.identity["precision"] == "int8" and INT8_GRAPH_FILE in run.identity["model_files"]
    with pytest.raises(ConfigError, match=r"older has no model\.int8\.onnx .*Score with --precision auto or float32"):
        check_run(PredictConfig(**given, model=str(older(model_folder, tmp_path / "older"))))
    with pytest.raises(ConfigError, match="--precision int8: GPUs score in bfloat16"):
        check_run(PredictConfig(**given, model=str(model_folder), use_gpu=True))
    assert not (tmp_path / "out").exists()


def test_export_writes_the_int8_graph(model_folder, images, tmp_path):
    target = tmp_path / "quick.onnx"
    result = run_export(ExportConfig(model=str(model_folder), output=str(target), precision="int8"))
    assert result["precision"] == "int8"
    assert (
        hashlib.sha256(target.read_bytes()).hexdigest()
        == result["sha256"]
        == open_model(model_folder).files[INT8_GRAPH_FILE]
    )
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    ages = session.run(["age_years"], {"images": images[:5]})[0]
    ours = CpuScorer(model_folder, precision="int8").score(images[:5]).age_years
    assert np.abs(ages - ours).mean() < 0.1 * ours.std(), "another runtime, another order of sums"
    with pytest.raises(ConfigError, match=r"has no model\.int8\.onnx"):
        run_export(
            ExportConfig(model=str(older(model_folder, tmp_path / "older")), output=str(target), precision="int8")
        )


def test_adding_it_again_gives_the_same_file(model_folder, tmp_path):
    folder = older(model_folder, tmp_path / "model")
    pictures, none = smooth_pictures(12, seed=2), np.full(4, -1)
    unlabelled = Samples(pictures[8:], np.arange(4), np.full(4, np.nan, np.float32), none)
    first = add_int8(folder, pictures[:8], unlabelled)
    assert open_model(folder) == first and first.int8 is not None
    assert (first.int8.age_mae_years, first.int8.gender_accuracy, first.int8.is_close) == (None, None, False)
    assert add_int8(folder, pictures[:8], unlabelled) == first
    other = add_int8(folder, pictures[2:], unlabelled)
    assert other.files[INT8_GRAPH_FILE] != first.files[INT8_GRAPH_FILE], "other images, other scales"


def test_ranges_count_by_their_distance(model_folder, images):
    ages = CpuScorer(model_folder).score(images[:3]).age_years
    ranges = np.array([[np.nan, np.nan], [0, 119], [110, 120]], np.float32)
    val = Samples(
        images[:3],
        np.arange(3),
        np.array([ages[0] + 2, np.nan, np.nan], np.float32),
        np.array([0, 1, -1]),
        age_ranges=ranges,
    )
    comparison = compare(LocalModel.open(model_folder), val)
    assert comparison.age_mae_years == pytest.approx((2 + 0 + 110 - ages[2]) / 3, abs=1e-3)
