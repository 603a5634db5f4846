from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from agegender.artifact import Calibration, NetworkConfig
from agegender.errors import InputError
from agegender.model.checkpoint import save_model
from agegender.model.network import build_network
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.scoring.load import open_model
from agegender.storage import files


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = NetworkConfig(backbone="compact", age_head="scalar", image_size_px=32)
    folder = tmp_path_factory.mktemp("model") / "small"
    none = np.zeros(0, np.uint64)
    save_model(folder, build_network(config), Calibration(), none, none, "", {}, {})
    return folder


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def test_many_processes_share_one_whole_copy(s3_bucket: str, small_model: Path) -> None:
    files.upload_folder(small_model, f"{s3_bucket}/model", last="model.json")
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(localize_model, [f"{s3_bucket}/model"] * 4))
    copy = copies[0]
    assert {each.folder for each in copies} == {copy.folder}
    assert copy.info == open_model(small_model)
    assert [path.name for path in copy.folder.parent.iterdir()] == [copy.folder.name]


def test_a_damaged_copy_is_fetched_again_and_another_model_has_a_folder_of_its_own(
    s3_bucket: str, small_model: Path
) -> None:
    files.upload_folder(small_model, f"{s3_bucket}/model", last="model.json")
    copy = localize_model(f"{s3_bucket}/model")
    (copy.folder / "model.onnx").write_bytes(b"damaged")
    assert localize_model(f"{s3_bucket}/model") == copy
    assert open_model(copy.folder)
    files.write_bytes(f"{s3_bucket}/model/model.json", (small_model / "model.json").read_bytes() + b"\n")
    assert localize_model(f"{s3_bucket}/model") != copy


def test_a_missing_or_damaged_model_is_named_by_its_address(s3_bucket: str, small_model: Path) -> None:
    with pytest.raises(InputError, match=rf"no model at {s3_bucket}/none"):
        localize_model(f"{s3_bucket}/none")
    files.upload_folder(small_model, f"{s3_bucket}/model", last="model.json")
    files.write_bytes(f"{s3_bucket}/model/weights.safetensors", b"damaged")
    with pytest.raises(InputError, match=rf"{s3_bucket}/model/weights\.safetensors"):
        localize_model(f"{s3_bucket}/model")
