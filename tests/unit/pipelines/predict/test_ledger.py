import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from agegender.config import PredictConfig
from agegender.errors import ConfigError, ResourceError
from agegender.pipelines.predict import ledger as ledger_module
from agegender.pipelines.predict.ledger import Ledger, stage_unit
from agegender.pipelines.runtime.run_record import DONE, RUNNING, claim_output, finish_record
from agegender.schema import prediction_schema


def unit_rows(number: int) -> pa.Table:
    """Three images: one ok with two faces, one ok, one missing."""
    rows = [
        {"uri": f"{number}-a", "face_index": 0, "status": "ok", "age_years": 30.0},
        {"uri": f"{number}-a", "face_index": 1, "status": "ok", "age_years": 40.0},
        {"uri": f"{number}-b", "face_index": 0, "status": "ok", "age_years": 50.0},
        {"uri": f"{number}-c", "face_index": 0, "status": "missing"},
    ]
    return pa.Table.from_pylist(rows, schema=prediction_schema())


def unit(tmp_path: Path, number: int) -> str:
    return f"{tmp_path}/_work/listing/unit-{number:07d}.parquet"


def pending(ledger: Ledger) -> list[int]:
    return [number for number in range(6) if not ledger.is_done(number)]


def readable(output: Path) -> list[str]:
    table = pyarrow.dataset.dataset(output, format="parquet").to_table()
    return sorted(
        f"{uri}/{face}" for uri, face in zip(table["uri"].to_pylist(), table["face_index"].to_pylist(), strict=True)
    )


def expected(*numbers: int) -> list[str]:
    rows = [row for n in numbers for row in unit_rows(n).select(["uri", "face_index"]).to_pylist()]
    return sorted(f"{row['uri']}/{row['face_index']}" for row in rows)


def test_units_become_parts_in_order_whatever_order_they_finish_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PART_ROWS", 8)
    ledger = Ledger(str(tmp_path), {"agegender.model_id": "abc"})
    for number in (1, 3, 0, 5, 2, 4):
        ledger.add(unit(tmp_path, number), stage_unit(str(tmp_path), unit(tmp_path, number), unit_rows(number)))
    assert [path.name for path in sorted(tmp_path.glob("part-*"))] == [
        "part-0000000-0000001.parquet", "part-0000002-0000003.parquet", "part-0000004-0000005.parquet"
    ]  # fmt: skip
    ledger.publish_rest()
    assert readable(tmp_path) == expected(*range(6))
    assert ledger.totals.by_status == {"ok": 12, "missing": 6}
    assert (ledger.totals.images, ledger.totals.rows) == (18, 24)
    schema = pa.parquet.read_schema(tmp_path / "part-0000000-0000001.parquet")
    assert schema.metadata[b"agegender.model_id"] == b"abc"
    assert not list((tmp_path / "_work" / "scored").iterdir())


def test_a_killed_run_goes_on_from_the_names_in_its_output(tmp_path: Path) -> None:
    output = str(tmp_path)
    first = Ledger(output, {})
    for number in (0, 1):
        first.add(unit(tmp_path, number), stage_unit(output, unit(tmp_path, number), unit_rows(number)))
    first.publish_rest()
    stage_unit(output, unit(tmp_path, 4), unit_rows(4))  # scored, and the driver killed before it heard of it
    stage_unit(output, unit(tmp_path, 1), unit_rows(1))  # published, and killed before it was removed
    (tmp_path / "_work" / "scored" / "unit-0000005.parquet").write_bytes(b"half")  # rows without counts: not done

    second = Ledger(output, {})
    assert pending(second) == [2, 3, 5]
    assert second.totals.images == 9
    for number in pending(second):
        second.add(unit(tmp_path, number), stage_unit(output, unit(tmp_path, number), unit_rows(number)))
    second.publish_rest()
    assert readable(tmp_path) == expected(*range(6))
    assert second.totals.images == 18
    assert pending(Ledger(output, {})) == []


def test_units_are_taken_while_a_part_is_joined_and_the_next_part_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PART_ROWS", 8)
    may_go_on, asked = threading.Event(), threading.Semaphore(0)

    def wait() -> None:
        asked.release()
        assert may_go_on.wait(30)

    with Ledger(str(tmp_path), {}, wait) as ledger:
        for number in (0, 1, 2):
            ledger.add(unit(tmp_path, number), stage_unit(str(tmp_path), unit(tmp_path, number), unit_rows(number)))
        assert asked.acquire(timeout=30)
        assert pending(ledger) == [3, 4, 5]
        assert (ledger.totals.images, ledger.parts, list(tmp_path.glob("part-*"))) == (9, 0, [])
        threading.Timer(0.2, may_go_on.set).start()
        ledger.add(unit(tmp_path, 3), stage_unit(str(tmp_path), unit(tmp_path, 3), unit_rows(3)))
        assert readable(tmp_path) == expected(0, 1)
    ledger.publish_rest()
    assert (readable(tmp_path), ledger.parts) == (expected(0, 1, 2, 3), 2)


def test_what_goes_wrong_with_a_part_ends_the_run_and_its_units_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PART_ROWS", 4)

    def refuse() -> None:
        raise ResourceError("another driver has taken over")

    staged = [stage_unit(str(tmp_path), unit(tmp_path, number), unit_rows(number)) for number in (0, 1)]
    with pytest.raises(ResourceError, match="taken over"), Ledger(str(tmp_path), {}, refuse) as ledger:
        ledger.add(unit(tmp_path, 0), staged[0])
    with pytest.raises(ResourceError, match="taken over"), Ledger(str(tmp_path), {}, refuse) as ledger:
        for number, counts in enumerate(staged):
            ledger.add(unit(tmp_path, number), counts)  # the second at the latest, before another part is begun
        pytest.fail("two parts cannot be under way")
    assert not list(tmp_path.glob("part-*"))
    assert pending(Ledger(str(tmp_path), {})) == [2, 3, 4, 5]


def config(tmp_path: Path) -> PredictConfig:
    return PredictConfig(input=["a"], output=str(tmp_path), model="m")


def test_another_run_is_refused_and_told_what_differs(tmp_path: Path) -> None:
    identity = {"model_files": {"model.onnx": "1"}, "limit": None}
    assert claim_output(str(tmp_path), "predict", config(tmp_path), identity) is None
    again = claim_output(str(tmp_path), "predict", config(tmp_path), identity)
    assert again is not None
    assert again["state"] == RUNNING
    with pytest.raises(ConfigError, match=r"limit was None, is now 5"):
        claim_output(str(tmp_path), "predict", config(tmp_path), identity | {"limit": 5})
    with pytest.raises(ConfigError, match="holds the output of `agegender predict`"):
        claim_output(str(tmp_path), "eda", config(tmp_path), identity)
    finish_record(str(tmp_path), "predict", config(tmp_path), identity, {"images": 3})
    done = claim_output(str(tmp_path), "predict", config(tmp_path), identity)
    assert done is not None
    assert (done["state"], done["result"]) == (DONE, {"images": 3})
