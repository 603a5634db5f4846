"""Random SIGKILLs of a predict run, twenty in ``benchmarks/kills.py``, five here; and two drivers at once."""

from pathlib import Path

import pytest
from kills import kill_and_compare

from tests.support.decoders import held_up
from tests.support.drawn import write_faces
from tests.support.runs import predict_flags, rows_of, started


@pytest.mark.parametrize("on_ray", [True, False], ids=["ray", "local"])
def test_five_random_kills_leave_the_table_of_an_undisturbed_run(
    on_ray: bool, tiny_model: Path, tmp_path: Path
) -> None:
    faces = tmp_path / "faces"
    write_faces(faces, 600)
    report = kill_and_compare(faces, tiny_model, tmp_path, kills=5, seed=1, unit_images=8, on_ray=on_ray)
    assert sum(report.kills.values()) == 5
    assert report.reads > 0


def test_a_second_driver_is_refused_and_the_first_goes_on(faces: Path, tiny_model: Path, tmp_path: Path) -> None:
    variables, hold = held_up(tmp_path / "held")
    hold.touch()
    flags = predict_flags(faces, tiny_model, tmp_path / "out", "--num-cpus", "1")
    with started(flags, variables) as first:
        first.wait_for("scoring in 1 processes")
        with started(flags) as second:
            assert second.end() == 2, second.log
        assert f"process {first.process.pid} on " in second.log
        hold.unlink()
        assert first.end() == 0, first.log
    assert sorted(rows_of(tmp_path / "out")["uri"].to_pylist()) == sorted(str(path) for path in faces.iterdir())
