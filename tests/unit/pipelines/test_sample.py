import json
from pathlib import Path
from typing import Any

import pytest

from agegender.config import SampleConfig
from agegender.data.labels import from_filename
from agegender.data.synthetic import draw_sample
from agegender.errors import ConfigError
from agegender.pipelines.sample import run_sample


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("_")}


def sample(folder: Path, **options) -> dict[str, Any]:
    return run_sample(SampleConfig(**{"output": str(folder), "count": 6, "size_px": 32, "num_workers": 1} | options))


def test_writes_the_drawings_of_its_seed(tmp_path):
    result = sample(tmp_path / "faces", seed=5)
    assert result == {"output": str(tmp_path / "faces"), "images": 6, "seed": 5, "drawn": 6}
    assert content(tmp_path / "faces") == dict(draw_sample(index, 5, 32) for index in range(6))
    assert all(from_filename(name).problem is None for name in content(tmp_path / "faces"))
    record = json.loads((tmp_path / "faces" / "_run.json").read_text())
    assert (record["job"], record["state"], record["config"]["seed"]) == ("sample", "done", 5)


def test_processes_draw_what_one_draws(tmp_path):
    sample(tmp_path / "one", count=60)
    sample(tmp_path / "two", count=60, num_workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert len(content(tmp_path / "one")) == 60


def test_the_same_sample_goes_on_and_grows(tmp_path):
    sample(tmp_path)
    whole = content(tmp_path)
    next(tmp_path.glob("*.jpg")).unlink()
    assert sample(tmp_path)["drawn"] == 1
    assert content(tmp_path) == whole
    assert sample(tmp_path)["drawn"] == 0
    assert sample(tmp_path, count=8)["drawn"] == 2
    assert whole.items() <= content(tmp_path).items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed was 0, is now 1"),
        ({"size_px": 48}, "size_px was 32, is now 48"),
        ({"count": 4}, "has 2 files beyond --count 4"),
    ],
)
def test_another_sample_is_not_mixed_in(tmp_path, options, message):
    sample(tmp_path)
    before = content(tmp_path)
    with pytest.raises(ConfigError, match=message):
        sample(tmp_path, **options)
    assert content(tmp_path) == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"has other files, e\.g\. holiday\.jpg.*another --output"):
        sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.jpg"]
