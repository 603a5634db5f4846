import hashlib
import json
import shutil

import numpy as np
import pytest

from agegender.errors import InputError
from agegender.scoring.load import open_model, training_images


@pytest.fixture
def folder(model_folder, tmp_path):
    return shutil.copytree(model_folder, tmp_path / "model")


def change_info(folder, **changes) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_whole_model_opens(folder):
    info = open_model(folder)
    assert info.network.backbone == "compact"
    assert info.model_id == hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()[:12]
    assert training_images(folder).tolist() == list(range(10))


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such model folder; give the model/ folder"):
        open_model(tmp_path / "nowhere")
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x")
    with pytest.raises(InputError, match="a file, not a model folder"):
        open_model(file)
    with pytest.raises(InputError, match=r"has no model\.json, only model\.onnx"):
        open_model(tmp_path)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.onnx", "training_images.u64"])
def test_damaged_files(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}: damaged model, its SHA-256 is .*copy the whole model folder again"):
        open_model(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: damaged model, the file is missing"):
        open_model(folder)


def test_damaged_info(folder):
    path = folder / "model.json"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\xff\xfe\x00"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"model\.json: damaged model, not valid JSON"):
            open_model(folder)


@pytest.mark.parametrize("content", ["[]", "{}", '{"architectures": ["ViT"]}', "3"])
def test_foreign_info(folder, content):
    (folder / "model.json").write_text(content)
    with pytest.raises(InputError, match="not a model of this package"):
        open_model(folder)


def test_other_versions_and_fields(folder):
    change_info(folder, format_version=99, created_by="agegender 9.0")
    with pytest.raises(InputError, match=r"format version 99, this release reads 2; .*agegender 9\.0"):
        open_model(folder)
    change_info(folder, format_version=2, network={"backbone": "compact"})
    with pytest.raises(InputError, match=r"network\.age_head: Field required"):
        open_model(folder)


def test_the_hashes_must_be_there_and_stay_in_the_folder(folder):
    files = open_model(folder).files
    change_info(folder, files={name: value for name, value in files.items() if name != "model.onnx"})
    with pytest.raises(InputError, match=r"no SHA-256 of model\.onnx"):
        open_model(folder)
    change_info(folder, files={**files, "../../etc/passwd": "0" * 64})
    with pytest.raises(InputError, match="not a file of this folder"):
        open_model(folder)


def test_training_images_must_be_whole_and_sorted(folder):
    path = folder / "training_images.u64"
    path.write_bytes(b"123456789")
    with pytest.raises(InputError, match="9 bytes are not a multiple of 8"):
        training_images(folder)
    np.array([2, 1], "<u8").tofile(path)
    with pytest.raises(InputError, match="not in order"):
        training_images(folder)
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        training_images(folder)
