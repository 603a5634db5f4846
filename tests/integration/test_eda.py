import json
import os
import re
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from PIL import Image

from agegender.config import EdaConfig
from agegender.data import synthetic
from agegender.errors import ConfigError, InputError
from agegender.pipelines.eda.run import run_eda
from tests.support.corpus import WITH_WARNING, write_corpus

NAME = re.compile(r"(\d+)_([01])_[0-4]_\d+\.?jpg(?:\.chip\.jpg)?")


def counted_another_way(folder: Path) -> dict[str, Any]:
    """An independent count: names by one pattern, bytes by their digests; knows nothing of the package."""
    ages: Counter[int] = Counter()
    genders: Counter[str] = Counter()
    digests: Counter[bytes] = Counter()
    for path in folder.iterdir():
        found = NAME.fullmatch(path.name.replace(" ", ""))
        digests[sha256(path.read_bytes()).digest()] += 1
        if found and int(found[1]) <= 120:
            ages[int(found[1])] += 1
            genders["female" if found[2] == "1" else "male"] += 1
    groups: Counter[int] = Counter()
    for age, count in ages.items():
        groups[min(max(age - 1, 0) // 10, 10)] += count
    names = ["1-10"] + [f"{low}-{low + 9}" for low in range(11, 101, 10)] + ["101+"]
    return {
        "images": sum(digests.values()),
        "labelled": sum(ages.values()),
        "by_gender": {"male": genders["male"], "female": genders["female"]},
        "by_age": {str(age): ages[age] for age in sorted(ages)},
        "by_age_group": {name: groups[index] for index, name in enumerate(names)},
        "most_frequent_age_group": names[min(groups, key=lambda index: (-groups[index], index))],
        "exact_groups": sum(count > 1 for count in digests.values()),
    }


def agrees(summary: dict[str, Any], expected: dict[str, Any]) -> None:
    exact = expected.pop("exact_groups")
    assert {key: summary[key] for key in expected} == expected
    assert summary["duplicates"]["exact"]["groups"] == exact


@pytest.fixture(scope="session")
def dirty_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 drawings under UTKFace names, two of them twice, three names that yield no label, two broken files."""
    folder = tmp_path_factory.mktemp("eda") / "faces"
    folder.mkdir()
    drawn = [synthetic.draw_sample(index, 1, 64) for index in range(60)]
    for name, data in drawn:
        (folder / name).write_bytes(data)
    (folder / "99_0_0_20170110101010101.jpg").write_bytes(drawn[0][1])
    (folder / "98_1_0_20170110101010102.jpg").write_bytes(drawn[1][1])
    (folder / "61_1_20170109150557335.jpg.chip.jpg").write_bytes(drawn[2][1])
    (folder / "130_0_0_20170110101010103.jpg").write_bytes(drawn[3][1][:-200])
    (folder / "holiday.jpg").write_bytes(b"not an image")
    (folder / "notes.txt").write_text("ignored")
    return folder


@pytest.fixture(scope="session")
def eda_output(dirty_set: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> Path:
    output = tmp_path_factory.mktemp("eda") / "out"
    run_eda(EdaConfig(input=[str(dirty_set)], output=str(output), unit_images=20))
    return output


def summary_of(output: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return summary


def test_counts_agree_with_an_independent_count(eda_output, dirty_set):
    expected = counted_another_way(dirty_set)
    expected["images"] -= 1  # notes.txt is no image
    summary = summary_of(eda_output)
    agrees(summary, expected)
    assert summary["ignored_files"] == {".txt": 1}
    assert summary["by_status"] == {"ok": 63, "truncated": 1, "not_an_image": 1}
    assert sum(summary["by_status"].values()) == summary["images"]
    assert summary["duplicates"]["exact"] == {"groups": 3, "images": 6, "contradicting_groups": 2}
    assert summary["label_problems"] == {
        "3 fields expected before the stamp, 2 found": 1,
        "age is outside 0-120": 1,
        "not a name like AGE_GENDER_RACE_STAMP.jpg": 1,
    }


def test_tables_hold_every_row(eda_output):
    summary, tables = summary_of(eda_output), eda_output / "tables"
    assert pyarrow.dataset.dataset(tables / "images").count_rows() == summary["images"]
    assert len(list((tables / "images").iterdir())) == 4
    ages = pq.read_table(tables / "ages.parquet").to_pylist()
    assert {str(row["age_years"]): row["images"] for row in ages} == summary["by_age"]
    groups = pq.read_table(tables / "age_groups.parquet").to_pylist()
    assert {row["age_group"]: row["images"] for row in groups} == summary["by_age_group"]
    crossed = pq.read_table(tables / "gender_by_age_group.parquet").to_pylist()
    assert sum(row["images"] for row in crossed) == sum(summary["by_age_group"].values())
    bad = pq.read_table(tables / "bad_files.parquet").to_pylist()
    assert {(Path(row["uri"]).name, row["status"]) for row in bad} == {
        ("130_0_0_20170110101010103.jpg", "truncated"),
        ("holiday.jpg", "not_an_image"),
    }
    assert pq.read_table(tables / "label_problems.parquet").num_rows == 3
    assert pq.read_table(tables / "sizes.parquet").to_pylist()[0] == {"width": 64, "height": 64, "images": 64}
    duplicates = pq.read_table(tables / "duplicates.parquet").to_pylist()
    doubled = {Path(row["uri"]).name for row in duplicates if row["kind"] == "exact" and row["contradicting"]}
    assert {"99_0_0_20170110101010101.jpg", "98_1_0_20170110101010102.jpg"} < doubled


def test_the_page_shows_faces_and_the_figures_lie_beside_it(eda_output):
    page = (eda_output / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 24
    assert "holiday.jpg" in page and "61_1_20170109150557335" in page
    assert {path.name for path in (eda_output / "figures").iterdir()} >= {"ages_by_year.png", "gender_by_age_group.png"}


def test_a_finished_run_is_left_alone_and_another_is_refused(eda_output, dirty_set):
    before = (eda_output / "summary.json").stat().st_mtime_ns
    config = EdaConfig(input=[str(dirty_set)], output=str(eda_output), unit_images=20)
    assert run_eda(config)["images"] == 65
    assert (eda_output / "summary.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"seed was 0, is now 7"):
        run_eda(config.model_copy(update={"seed": 7}))


def test_a_stopped_run_goes_on_to_the_same_result(eda_output, dirty_set, tmp_path, ray_cluster):
    config = EdaConfig(input=[str(dirty_set)], output=str(tmp_path / "out"), unit_images=20)
    run_eda(config)
    record = json.loads((tmp_path / "out/run.json").read_text())
    (tmp_path / "out/run.json").write_text(json.dumps(record | {"state": "running"}))
    (tmp_path / "out/summary.json").unlink()
    (tmp_path / "out/_work/summaries/unit-0000001.json").unlink()
    kept = tmp_path / "out/tables/images/unit-0000000.parquet"
    before = kept.stat().st_mtime_ns
    run_eda(config)
    assert kept.stat().st_mtime_ns == before
    assert summary_of(tmp_path / "out") == summary_of(eda_output)
    assert (tmp_path / "out/report.html").read_text() == (eda_output / "report.html").read_text()


def test_every_kind_of_file_and_no_images_in_the_page(tmp_path, ray_cluster):
    expected = write_corpus(tmp_path / "in")
    run_eda(
        EdaConfig(
            input=[str(tmp_path / "in")],
            output=str(tmp_path / "out"),
            images=False,
            max_image_pixels=40_000,
            labels="none",
        )
    )
    summary = summary_of(tmp_path / "out")
    assert summary["by_status"] == Counter(map(str, expected.values()))
    assert summary["images_with_warning"] == len(WITH_WARNING)
    assert (summary["labelled"], summary["most_frequent_age_group"], summary["by_age"]) == (0, None, {})
    page = (tmp_path / "out/report.html").read_text()
    assert "data:image/jpeg" not in page
    assert "No image has a label" in page
    assert "4 decoded images have a warning" in page


def test_a_unit_of_more_than_a_block_is_one_file(tmp_path, ray_cluster):
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0)
    for index in range(10):
        pixels = noise.integers(0, 256, (1200, 1200, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{index}.bmp")  # 4.3 MB, of which four fill a block
    run_eda(EdaConfig(input=[str(tmp_path / "in")], output=str(tmp_path / "out")))
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": 10}
    (facts,) = (tmp_path / "out/tables/images").iterdir()
    assert facts.name == "unit-0000000.parquet"
    uris = pq.read_table(facts)["uri"].to_pylist()
    assert uris == sorted(str(path) for path in (tmp_path / "in").iterdir())


def test_an_empty_source_is_an_input_error(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no files there"):
        run_eda(EdaConfig(input=[str(tmp_path / "in")], output=str(tmp_path / "out")))


@pytest.mark.utkface
@pytest.mark.timeout(600)
def test_the_real_set_agrees_with_an_independent_count(tmp_path, ray_cluster):
    folder = Path(os.environ.get("AGEGENDER_UTKFACE", Path(__file__).parents[2] / "../shared/data/utkface"))
    if not folder.is_dir():
        pytest.skip(f"AGEGENDER_UTKFACE: no folder {folder}")
    run_eda(EdaConfig(input=[str(folder)], output=str(tmp_path / "out")))
    agrees(summary_of(tmp_path / "out"), counted_another_way(folder))
