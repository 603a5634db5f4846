from pathlib import Path

import pytest

from agegender.errors import InputError
from agegender.pipelines.source.inputs import check_inputs


def test_a_path_without_anything_is_told_similar_names(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    check_inputs([str(tmp_path / "photos"), f"{tmp_path}/photos/", f"file://{tmp_path}/photos"])
    with pytest.raises(InputError, match=rf"potos: no such file or folder\. In {tmp_path} there is photos\."):
        check_inputs([str(tmp_path / "photos"), str(tmp_path / "potos/")])
    with pytest.raises(InputError, match=r"zzz: no such file or folder\. Check the address"):
        check_inputs([str(tmp_path / "zzz")])
    with pytest.raises(InputError, match=rf"no such file or folder \({tmp_path}/nowhere does not exist either\)"):
        check_inputs([str(tmp_path / "nowhere" / "photos")])


def test_what_only_the_listing_can_tell_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    check_inputs([str(tmp_path), str(tmp_path / "link"), "https://example.org/a.jpg", "hdfs://host/a"])
