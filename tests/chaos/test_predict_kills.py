"""Random SIGKILLs of a predict run: twenty in ``benchmarks/kills.py``, five here."""

from pathlib import Path

from agegender.data.synthetic import draw_sample
from benchmarks.kills import kill_and_compare


def test_five_random_kills_leave_the_table_of_an_undisturbed_run(tiny_model: Path, tmp_path: Path) -> None:
    faces = tmp_path / "faces"
    faces.mkdir()
    for index in range(600):
        name, data = draw_sample(index, seed=3, size_px=48)
        (faces / name).write_bytes(data)
    report = kill_and_compare(faces, tiny_model, tmp_path, kills=5, seed=1, unit_images=8)
    assert sum(report.kills.values()) == 5
    assert report.reads > 0
