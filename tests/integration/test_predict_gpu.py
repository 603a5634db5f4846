"""The way of an image over a GPU's actor, with a CPU in the GPU's place: torch is the same, and so is all that Ray does."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest

from agegender.config import PredictConfig
from agegender.data.synthetic import draw_sample
from agegender.errors import ConfigError
from agegender.pipelines.engine import gpu_actors as gpus
from agegender.pipelines.predict.run import run_predict

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def cpu_for_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "RESOURCE", "node:__internal_head__")
    monkeypatch.setattr(gpus, "DEVICE", "cpu")


def predict(faces: Path, output: Path, model: Path, **options: object) -> pa.Table:
    given = {"input": [str(faces)], "output": str(output), "model": str(model), "faces": "none", "unit_images": 9}
    run_predict(PredictConfig(**given | {"num_workers": 2, "batch_size": 4} | options))
    return pyarrow.dataset.dataset(output, format="parquet").to_table().sort_by("uri")


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    folder.mkdir()
    for index in range(20):
        (folder / f"{index:02d}.png").write_bytes(draw_sample(index, seed=3, size_px=48)[1])
    (folder / "cut.png").write_bytes(draw_sample(1, seed=3, size_px=48)[1][:-40])
    return folder


def test_what_decoders_send_to_a_gpu_comes_back_as_their_rows(
    cpu_for_gpu: None, faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    there = predict(faces, tmp_path / "gpu", tiny_model, use_gpu=True)
    here = predict(faces, tmp_path / "cpu", tiny_model, precision="float32")
    assert there.num_rows == 21
    exact = ["uri", "status", "error", "width", "height", "gender"]
    assert there.select(exact).equals(here.select(exact))
    for name in ("age_years", "age_low_years", "age_high_years", "female_probability"):
        ours, theirs = (table[name].drop_null().to_numpy() for table in (there, here))
        np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_a_run_on_gpus_is_not_gone_on_with_on_cpus(
    cpu_for_gpu: None, faces: Path, tiny_model: Path, tmp_path: Path
) -> None:
    predict(faces, tmp_path / "out", tiny_model, use_gpu=True)
    with pytest.raises(ConfigError, match="precision was 'bfloat16', is now 'auto'"):
        predict(faces, tmp_path / "out", tiny_model)


def test_without_a_gpu_that_is_said_at_once(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Ray sees no GPU"):
        predict(faces, tmp_path / "out", tiny_model, use_gpu=True)
