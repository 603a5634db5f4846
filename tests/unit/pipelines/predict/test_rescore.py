from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from agegender.config import SourceOptions
from agegender.errors import AccountingError
from agegender.pipelines.predict import ledger as ledger_module
from agegender.pipelines.predict.ledger import Ledger, stage_unit
from agegender.pipelines.predict.rescore import UNIT, Rescoring, replace_rows
from agegender.pipelines.source.listing import read_unit
from agegender.pipelines.source.streaming_listing import GrowingListing
from agegender.schema import LISTING, prediction_schema


class Run:
    """predict without a model: a file's age is its first number, "missing" is its status where it holds no number."""

    def __init__(self, root: Path) -> None:
        self.faces, self.output = root / "faces", root / "out"
        self.faces.mkdir()
        for index in range(10):
            self.write(index, str(index))

    def write(self, index: int, text: str) -> None:
        (self.faces / f"{index:02d}.jpg").write_text(text)

    def list(self, again: Rescoring | None = None) -> GrowingListing:
        options = SourceOptions(input=[str(self.faces)], unit_images=4, labels="none")
        with GrowingListing(options, f"{self.output}/_work/listing", again=again) as listing:
            units = [n for n in listing.numbers() if n is not None]
        ledger = Ledger(str(self.output), {"agegender.model_id": "abc"})
        for number in units:
            if not ledger.is_done(number):
                unit = listing.address(number)
                ledger.add(unit, stage_unit(str(self.output), unit, self.score(unit)))
        ledger.publish_rest()
        return listing

    def score(self, unit: str) -> pa.Table:
        listed = read_unit(unit)
        texts = [Path(uri).read_text() for uri in listed["uri"].to_pylist()]
        keep = [listed.schema.field(name) for name in listed.column_names[len(LISTING) :]]
        rows = [
            {"uri": uri, "face_index": 0, "status": "ok", "age_years": float(text)}
            if text.isdigit()
            else {"uri": uri, "face_index": 0, "status": "missing", "error": text}
            for uri, text in zip(listed["uri"].to_pylist(), texts, strict=True)
        ]
        for row, values in zip(rows, listed.to_pylist(), strict=True):
            row |= {field.name: values[field.name] for field in keep}
        return pa.Table.from_pylist(rows, schema=prediction_schema(keep))

    def again(self, changed: bool = False, statuses: tuple[str, ...] = ()) -> Rescoring:
        return Rescoring(str(self.output), 4, changed, statuses)

    def score_again(self, again: Rescoring) -> None:
        ledger = Ledger(again.output, {})
        for unit in [again.address(number) for number in range(again.units)]:
            ledger.add(unit, stage_unit(again.output, unit, self.score(unit)))
        ledger.publish_rest()

    def ages(self) -> dict[str, float | None]:
        table = pyarrow.dataset.dataset(self.output, format="parquet").to_table()
        assert len(set(table["uri"].to_pylist())) == table.num_rows
        return {Path(row["uri"]).stem: row["age_years"] for row in table.select(["uri", "age_years"]).to_pylist()}

    def parts(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.output.glob("part-*"))}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(ledger_module, "PART_ROWS", 8)
    run = Run(tmp_path)
    run.write(9, "gone")
    run.list()
    assert sorted(run.parts()) == ["part-0000000-0000001.parquet", "part-0000002-0000002.parquet"]
    return run


def ages(**other: float | None) -> dict[str, float | None]:
    return {f"{index:02d}": float(index) for index in range(9)} | {"09": None} | other


def test_a_replaced_file_is_counted_and_named_and_its_rows_stay(run: Run) -> None:
    before = run.parts()
    run.write(3, "33")
    listing = run.list()
    assert (listing.changed, [Path(uri).stem for uri in listing.changed_examples]) == (1, ["03"])
    assert run.parts() == before


def test_replaced_files_are_scored_anew_and_no_other_part_is_touched(run: Run) -> None:
    before = run.parts()
    run.write(3, "33")
    run.write(6, "66")
    again = run.again(changed=True)
    run.list(again)
    assert (again.images, again.units) == (2, 1)
    assert read_unit(again.address(0))[UNIT.name].to_pylist() == [0, 1]
    run.score_again(again)
    again.take_over()
    assert run.ages() == ages(**{"03": 33, "06": 66})
    after = run.parts()
    assert [name for name in after if after[name] != before[name]] == ["part-0000000-0000001.parquet"]
    told = pa.parquet.read_schema(run.output / "part-0000000-0000001.parquet")
    assert told.equals(prediction_schema())
    assert told.metadata[b"agegender.model_id"] == b"abc"
    assert run.list().changed == 0
    assert run.again().units == 0
    assert not [path for path in (run.output / "_work" / "again").rglob("*") if path.is_file()]


def test_images_of_a_status_are_tried_again_and_the_counts_follow(run: Run) -> None:
    run.write(9, "99")
    again = run.again(statuses=("missing",))
    run.list(again)
    assert again.images == 1
    run.score_again(again)
    again.take_over()
    assert run.ages() == ages(**{"09": 99})
    assert Ledger(str(run.output), {}).totals.by_status == {"ok": 10}
    nothing = run.again(statuses=("missing",))
    run.list(nothing)
    assert nothing.images == 0


@pytest.mark.parametrize("moment", ["listed", "scored", "exchanged"])
def test_rescoring_that_was_killed_goes_on_without_being_asked_for(
    moment: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.write(3, "33")
    run.write(9, "99")
    again = run.again(changed=True)
    run.list(again)
    if moment != "listed":
        run.score_again(again)
    if moment == "exchanged":
        with monkeypatch.context() as killed:
            killed.setattr(again, "clear", lambda: None)
            again.take_over()
        assert run.ages() == ages(**{"03": 33, "09": 99})
    second = run.again()
    assert (second.units, second.collects) == (1, False)
    run.score_again(second)
    second.take_over()
    assert run.ages() == ages(**{"03": 33, "09": 99})
    assert run.list().changed == 0
    assert run.again().units == 0


def test_what_was_collected_by_halves_is_collected_anew(run: Run) -> None:
    for index in range(6):
        run.write(index, f"1{index}")
    again = run.again(changed=True)
    run.list(again)
    Path(again.output, "again.json").unlink()
    run.write(0, "200")
    second = run.again(changed=True)
    assert second.collects
    run.list(second)
    assert (second.images, second.units) == (6, 2)


def test_a_part_that_would_lose_an_image_is_left_as_it_is(run: Run) -> None:
    before = run.parts()
    stranger = pa.Table.from_pylist([{"uri": "elsewhere", "face_index": 0, "status": "ok"}], schema=prediction_schema())
    with pytest.raises(AccountingError, match="1 images were scored again into 1, of which it holds 0"):
        replace_rows(str(run.output / "part-0000000-0000001.parquet"), stranger)
    assert run.parts() == before
