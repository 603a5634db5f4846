from pathlib import Path

import pyarrow as pa
import pyarrow.dataset
import pytest

from agegender.config import PredictConfig
from agegender.errors import AccountingError
from agegender.pipelines.predict import ledger as ledger_module
from agegender.pipelines.predict.ledger import Ledger, stage_unit
from agegender.pipelines.predict.rescore import UNIT, RescoreCollector, replace_rows
from agegender.pipelines.source.fetch import read_unit
from agegender.pipelines.source.streaming_listing import StreamingListing
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

    @property
    def config(self) -> PredictConfig:
        return PredictConfig(input=[str(self.faces)], output=str(self.output), unit_images=4)

    def list(self) -> StreamingListing:
        with StreamingListing(self.config.source(), f"{self.output}/_work/listing") as listing:
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

    def collector(self) -> RescoreCollector:
        return RescoreCollector(str(self.output))

    def collect(self, changed: bool = False, statuses: tuple[str, ...] = ()) -> RescoreCollector:
        collector = self.collector()
        collector.collect(self.config, changed=changed, statuses=statuses)
        return collector

    def score_collected(self, collector: RescoreCollector) -> None:
        output = collector.layout.output
        ledger = Ledger(output, {})
        for unit in [collector.address(number) for number in range(collector.units)]:
            ledger.add(unit, stage_unit(output, unit, self.score(unit)))
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


def test_replaced_files_are_scored_again_and_no_other_part_is_touched(run: Run) -> None:
    before = run.parts()
    run.write(3, "33")
    run.write(6, "66")
    (run.faces / "new.jpg").write_text("7")  # predict lists it, not rescore
    collector = run.collect(changed=True)
    assert (collector.images, collector.units) == (2, 1)
    assert read_unit(collector.address(0))[UNIT.name].to_pylist() == [0, 1]
    run.score_collected(collector)
    collector.commit()
    (run.faces / "new.jpg").unlink()
    assert run.ages() == ages(**{"03": 33, "06": 66})
    after = run.parts()
    assert [name for name in after if after[name] != before[name]] == ["part-0000000-0000001.parquet"]
    schema = pa.parquet.read_schema(run.output / "part-0000000-0000001.parquet")
    assert schema.equals(prediction_schema())
    assert schema.metadata[b"agegender.model_id"] == b"abc"
    assert run.list().changed == 0
    assert run.collector().units == 0
    assert not [path for path in (run.output / "_work" / "rescore").rglob("*") if path.is_file()]


def test_images_of_a_status_are_scored_again_and_the_counts_follow(run: Run) -> None:
    run.write(9, "99")
    collector = run.collect(statuses=("missing",))
    assert collector.images == 1
    run.score_collected(collector)
    collector.commit()
    assert run.ages() == ages(**{"09": 99})
    assert Ledger(str(run.output), {}).totals.by_status == {"ok": 10}
    assert run.collect(statuses=("missing",)).images == 0


@pytest.mark.parametrize("moment", ["collected", "scored", "replaced"])
def test_a_rescore_that_was_killed_resumes(moment: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write(3, "33")
    run.write(9, "99")
    collector = run.collect(changed=True)
    if moment != "collected":
        run.score_collected(collector)
    if moment == "replaced":
        with monkeypatch.context() as killed:
            killed.setattr(collector, "_clear", lambda: None)
            collector.commit()
        assert run.ages() == ages(**{"03": 33, "09": 99})
    second = run.collector()
    assert (second.units, second.images) == (1, 2)
    run.score_collected(second)
    second.commit()
    assert run.ages() == ages(**{"03": 33, "09": 99})
    assert run.list().changed == 0
    assert run.collector().units == 0


def test_a_collection_that_was_killed_is_made_again(run: Run) -> None:
    for index in range(6):
        run.write(index, f"1{index}")
    collector = run.collect(changed=True)
    Path(collector.layout.output, "rescore.json").unlink()
    run.write(0, "200")
    assert run.collector().units == 0
    second = run.collect(changed=True)
    assert (second.images, second.units) == (6, 2)


def test_a_part_that_would_lose_an_image_is_left_as_it_is(run: Run) -> None:
    before = run.parts()
    stranger = pa.Table.from_pylist([{"uri": "elsewhere", "face_index": 0, "status": "ok"}], schema=prediction_schema())
    with pytest.raises(AccountingError, match="1 images were rescored into 1, and the part has 0 of them"):
        replace_rows(str(run.output / "part-0000000-0000001.parquet"), stranger)
    assert run.parts() == before
