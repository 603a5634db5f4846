from pathlib import Path

import pytest

from agegender.config import PredictConfig
from agegender.errors import ConfigError
from agegender.pipelines.precision import settled_precision
from agegender.pipelines.record import claim_output
from agegender.scoring import bfloat16


def config(output: Path, **options: object) -> PredictConfig:
    return PredictConfig.model_validate({"input": ["faces"], "output": str(output), **options})


@pytest.mark.parametrize("has_it", [True, False])
def test_auto_is_what_the_cpu_has_where_ray_has_this_machine_alone(
    has_it: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(bfloat16, "cpu_has_bfloat16", lambda: has_it)
    assert settled_precision(config(tmp_path), "predict") == ("bfloat16" if has_it else "float32")
    assert settled_precision(config(tmp_path, address="auto"), "predict") == "float32"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert settled_precision(config(tmp_path), "predict") == "float32"
    for asked in ("float32", "bfloat16"):
        assert settled_precision(config(tmp_path, precision=asked), "predict") == asked


@pytest.mark.parametrize("begun", ["float32", "bfloat16"])
def test_auto_goes_on_as_the_output_was_begun_and_another_precision_is_refused(
    begun: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "cpu_has_bfloat16", lambda: begun == "float32")
    claim_output(str(tmp_path), "predict", config(tmp_path), {"precision": begun})
    assert settled_precision(config(tmp_path), "predict") == begun
    other = "bfloat16" if begun == "float32" else "float32"
    assert settled_precision(config(tmp_path, precision=other), "predict") == other
    with pytest.raises(ConfigError, match=f"precision was '{begun}', is now '{other}'"):
        claim_output(str(tmp_path), "predict", config(tmp_path), {"precision": other})


def test_gpus_score_in_bfloat16(tmp_path: Path) -> None:
    assert settled_precision(config(tmp_path, use_gpu=True), "predict") == "bfloat16"
    with pytest.raises(ConfigError, match="GPUs score in bfloat16"):
        settled_precision(config(tmp_path, use_gpu=True, precision="float32"), "predict")
