from collections import Counter

import pytest

from agegender.config import PredictConfig
from agegender.errors import ConfigError
from agegender.pipelines.source.selection import SourceSelection
from agegender.settings import parse_config

PATHS = [
    "a.jpg", "b/c.jpg", "b/._c.jpg", "__MACOSX/b/c.jpg", "__MACOSX/b/d.jpg", "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "#recycle/old.jpg", "$RECYCLE.BIN/x.jpg", "b/backup/1.jpg", "b/backup/2.jpg", "b/x.tmp.jpg", ".thumbnails/x.png",
]  # fmt: skip


def left(paths: list[str], **options: list[str]) -> tuple[list[str], dict[str, int]]:
    ignored: Counter[str] = Counter()
    selection = SourceSelection(options.get("exclude", []), options.get("include", []), ignored)
    return [path for path in paths if not selection.skips(path)], dict(ignored)


def test_hidden_names_and_system_folders_are_left_out_and_counted_once_a_folder() -> None:
    found, ignored = left(PATHS)
    assert found == ["a.jpg", "b/c.jpg", "b/backup/1.jpg", "b/backup/2.jpg", "b/x.tmp.jpg"]
    assert ignored == {"hidden name": 3, "system folder": 3}


def test_patterns_are_those_of_gitignore() -> None:
    found, ignored = left(PATHS[:2] + PATHS[8:11], exclude=["backup/", "*.tmp.jpg"])
    assert (found, ignored) == (["a.jpg", "b/c.jpg"], {"excluded": 2})
    assert left(PATHS, include=["b/**"])[0] == ["b/c.jpg", "b/backup/1.jpg", "b/backup/2.jpg", "b/x.tmp.jpg"]
    assert left(["a/x.jpg", "a/y.jpg", "x.jpg"], exclude=["/a/*", "!/a/x.jpg"])[0] == ["a/x.jpg", "x.jpg"]


def test_a_folder_is_asked_as_its_files_are() -> None:
    found, ignored = left(["_x/", "b/", "b/backup/", "b/c.jpg"], exclude=["backup/"])
    assert (found, ignored) == (["b/", "b/c.jpg"], {"hidden name": 1, "excluded": 1})


def test_a_wrong_pattern_is_a_wrong_option() -> None:
    with pytest.raises(ConfigError, match="--exclude"):
        parse_config(PredictConfig, ["--input", "x", "--output", "y", "--exclude", "a\\"], "predict")
