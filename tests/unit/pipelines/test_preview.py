import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from agegender.cli import main
from agegender.config import PreviewConfig
from agegender.data.annotate import SHEET_CELLS
from agegender.data.synthetic import draw_sample
from agegender.errors import ConfigError, InputError
from agegender.pipelines.preview import _corners, _in_one_line, run_preview


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(3):
        (folder / f"f{index}.jpg").write_bytes(draw_sample(index, 0, 64)[1])
    return folder


def preview(*photographs: Path, output: Path, **options: Any) -> int:
    config = PreviewConfig(photographs=list(map(str, photographs)), output=str(output), faces="none", **options)
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


def test_sheets_hold_every_image_and_belong_to_the_preview(photographs: Path, tmp_path: Path) -> None:
    for index in range(SHEET_CELLS - 2):
        shutil.copy(photographs / "f0.jpg", photographs / f"g{index:02d}.jpg")
    (photographs / "broken.jpg").write_bytes(b"no image")
    output = photographs / "out"
    assert preview(photographs, output=output, sheet=True) == SHEET_CELLS + 2
    names = [name for name in visible(output) if name.startswith("sheet")]
    assert names == ["sheet-001.jpg", "sheet-002.jpg"]
    full, rest = (Image.open(output / name).size for name in names)
    assert full[0] > rest[0]
    assert full[1] > 2 * rest[1]
    assert preview(photographs, output=output, sheet=True, limit=2) == 2, "a sheet is no image of the source"
    assert visible(output) == ["00001-f0.jpg", "sheet-001.jpg"]
    preview(photographs, output=output, limit=2)
    assert visible(output) == ["00001-f0.jpg"]


def test_it_says_what_it_wrote_and_of_what(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (photographs / "f0.jpg").read_bytes()
    (photographs / "cut.jpg").write_bytes(data[: len(data) * 3 // 4])
    arguments = ["preview", str(photographs), "--faces", "none", "--output", str(tmp_path / "out"), "--sheet"]
    assert main([*arguments, "--style", "detailed"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "images 4 faces 3 by status truncated 1, ok 3 written pictures 3, sheets 1" in printed
    assert main([*arguments, "--allow-truncated"]) == 0
    assert "pictures 4, sheets 1" in capsys.readouterr().out


def test_a_small_crop_is_enlarged_until_a_line_of_text_fits(photographs: Path, tmp_path: Path) -> None:
    preview(photographs / "f0.jpg", output=tmp_path / "out")
    width, height = Image.open(tmp_path / "out" / "00000-f0.jpg").size
    assert width == 320
    assert 320 < height < 400  # with a caption below


@pytest.mark.parametrize(
    ("changed", "texts"),
    [
        ({}, ["34 ±6  female 82 %", "34 ±6", "34"]),
        ({"gender_probability": 0.946}, ["34 ±6  female", "34 ±6", "34"]),
        ({"gender": "male", "gender_probability": 0.9449}, ["34 ±6  male 94 %", "34 ±6", "34"]),
        ({"age_low_years": 33.6}, ["34 ±4  female 82 %", "34 ±4", "34"]),
        ({"status": "no_face"}, ["no face"]),
    ],
)
def test_the_line_of_a_face(changed: dict[str, Any], texts: list[str]) -> None:
    row = {"status": "ok", "age_years": 34.4, "age_low_years": 29.1, "age_high_years": 41.5}
    assert _in_one_line(row | {"gender": "female", "gender_probability": 0.82} | changed) == texts


@pytest.mark.parametrize("side", [None, float("nan"), float("inf"), -1.0, 0.0])
def test_a_box_of_the_user_that_cannot_be_drawn_is_none(side: float | None) -> None:
    assert _corners({"x": 1, "y": 2, "width": 3, "height": 4}, 2) == (2, 4, 8, 12)
    assert _corners({"x": 1, "y": 2, "width": side, "height": 4}) is None
    assert _corners(None) is None


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
