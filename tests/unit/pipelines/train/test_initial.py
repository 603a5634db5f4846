import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

from agegender.artifact import CALIBRATION_IMAGES_FILE, INFO_FILE, TRAINING_IMAGES_FILE
from agegender.errors import InputError
from agegender.pipelines.train.initial import seen_before
from agegender.scoring.load import open_model


def test_weights_of_a_model_folder_bring_along_what_they_were_trained_on(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    info = open_model(folder)
    for name, keys in ((TRAINING_IMAGES_FILE, [1, 2, 3, 4]), (CALIBRATION_IMAGES_FILE, [2, 4])):
        data = np.array(keys, "<u8").tobytes()
        (folder / name).write_bytes(data)
        info.files[name] = hashlib.sha256(data).hexdigest()
    (folder / INFO_FILE).write_text(info.model_dump_json())
    assert seen_before(None, f"{folder}/weights.safetensors").tolist() == [1, 3]
    assert seen_before(str(folder), None).tolist() == [1, 2, 3, 4]


def test_of_other_files_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").touch()
    assert not len(seen_before(None, str(tmp_path / "weights.safetensors")))
    assert not len(seen_before(None, None))


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError):
        seen_before(None, str(tmp_path / "weights.safetensors"))
