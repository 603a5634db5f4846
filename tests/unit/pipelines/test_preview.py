import json
from pathlib import Path

import pytest

from agegender.config import PreviewConfig
from agegender.data.synthetic import draw_sample
from agegender.errors import ConfigError, InputError
from agegender.pipelines.preview import run_preview


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(3):
        (folder / f"f{index}.jpg").write_bytes(draw_sample(index, 0, 64)[1])
    return folder


def preview(*photographs: Path, output: Path) -> int:
    config = PreviewConfig(photographs=list(map(str, photographs)), output=str(output), faces="none")
    return int(run_preview(config)["images"])


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("_"))


def test_it_never_draws_on_its_own_pictures(photographs: Path) -> None:
    output = photographs / "preview"
    for _ in range(3):
        assert preview(photographs, output=output) == 3
    assert visible(output) == ["00000-f0.jpg", "00001-f1.jpg", "00002-f2.jpg"]
    assert preview(photographs, output=photographs / "another") == 3


def test_its_output_holds_the_pictures_of_the_last_preview(photographs: Path, tmp_path: Path) -> None:
    preview(photographs, output=tmp_path / "out")
    (tmp_path / "out" / "00007-mine.jpg").write_bytes(b"put there by the user")
    preview(photographs / "f2.jpg", output=tmp_path / "out")
    assert visible(tmp_path / "out") == ["00000-f2.jpg", "00007-mine.jpg"]


def test_other_files_and_wrong_paths_are_refused(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has other files, e\.g\. f0\.jpg"):
        preview(photographs, output=photographs)
    with pytest.raises(InputError, match=r"no such file or folder"):
        preview(tmp_path / "photograph", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_preview_that_failed_says_so_and_can_be_repeated(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no image")
    with pytest.raises(InputError):
        preview(tmp_path / "none", output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "_run.json").read_text())["state"] == "failed"
    assert preview(photographs, output=tmp_path / "out") == 3
