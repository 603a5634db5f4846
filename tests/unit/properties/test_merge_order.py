"""Whatever is summed up over parts gives one result, in every order and every grouping of the parts.

Units finish in the order in which workers happen to be free, so a sum that depended on it would differ from run to run.
The bootstrap has no part here: its resamples need all images at once.
"""

import functools
import json
import operator
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from agegender.data.samples import SampleSet
from agegender.data.statistics import SetStatistics, ranked
from agegender.evaluation.metrics import (
    METRICS,
    RANGE_METRICS,
    MetricSums,
    Observations,
    error_histogram,
    median_error_years,
)
from agegender.model.epoch_sums import TALLIED, EpochSums
from agegender.model.trainer import Tally
from agegender.pipelines.predict.ledger import UnitCounts, counts_of
from agegender.schema import FACTS, RACES, Status, prediction_schema
from tests.support.merging import cut, merged_in_some_order

# Sums of such years are exact in float64, so that equality can be asked for bit by bit.
YEARS = st.integers(0, 120 * 64).map(lambda count: count / 64)
COLOURS = st.lists(st.floats(0, 255, width=32), min_size=3, max_size=3)
WORDS = st.text(st.characters(codec="utf-8"), max_size=5)
PROBLEMS = st.sampled_from(["age 130 is outside 0-120: {}", "age -3 is outside 0-120: {}", "gender 'x' is unknown: {}"])

FACT = st.fixed_dictionaries(
    {
        "status": st.sampled_from([status.value for status in Status]),
        "error": st.none() | WORDS,
        "warning": st.none() | WORDS,
        "width": st.none() | st.integers(1, 3),
        "format": st.none() | st.sampled_from(["JPEG", "PNG"]),
        "size_bytes": st.none() | st.integers(0, 2**40),
        "colours": st.none() | st.tuples(COLOURS, COLOURS),
        "ages": st.none() | st.tuples(YEARS).map(lambda age: age * 2) | st.tuples(YEARS, YEARS).map(sorted),
        "gender": st.none() | st.integers(0, 1),
        "race": st.none() | st.sampled_from([*RACES, "East Asian", "7"]),
        "label_problem": st.none() | st.tuples(PROBLEMS, WORDS).map(lambda drawn: drawn[0].format(drawn[1])),
    }
)


@st.composite
def facts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of ``schema.FACTS``; no two of one uri, as a listing has none."""
    rows = []
    for uri in draw(st.lists(WORDS, max_size=25, unique=True)):
        row: dict[str, Any] = dict(draw(FACT))
        mean, square = row.pop("colours") or (None, None)
        height = None if row["width"] is None else 2
        row["age_low_years"], row["age_high_years"] = row.pop("ages") or (None, None)
        rows.append(row | {"uri": uri, "height": height, "channel_mean": mean, "channel_mean_square": square})
    return rows


def summary(rows: list[dict[str, Any]]) -> SetStatistics:
    """One pass over rows; its draw is so small that most images do not get in."""
    samples = SampleSet(seed=3, overall=4, per_group=2)
    for row in rows:
        samples.add(
            row["uri"],
            (row["age_low_years"], row["age_high_years"]),
            row["gender"],
            functools.partial(row["uri"].encode),
        )
    table = pa.Table.from_pylist([dict.fromkeys(FACTS.names) | row for row in rows], schema=FACTS)
    return SetStatistics.of_facts(table, samples)


def travelled(part: SetStatistics) -> SetStatistics:
    return SetStatistics.from_bytes(part.to_bytes())


@given(facts(), st.data())
def test_statistics_of_a_set(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    whole = summary(rows)
    parts = [summary(part) for part in data.draw(st.composite(cut)(rows))]
    merged = data.draw(
        st.composite(merged_in_some_order)([travelled(part) for part in parts], lambda a, b: travelled(a.merged(b)))
    )
    assert merged == whole
    assert travelled(whole) == whole
    for counts in ("statuses", "formats", "sizes", "problems"):
        assert ranked(getattr(merged, counts)) == ranked(getattr(whole, counts))
    assert (merged.channel_mean(), merged.channel_std()) == (whole.channel_mean(), whole.channel_std())
    assert merged.merged(SetStatistics(samples=SampleSet(seed=3, overall=4, per_group=2))) == whole


@given(facts(), st.data())
def test_images_that_are_drawn_to_be_shown(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    whole = summary(rows).samples
    parts = [summary(part).samples for part in data.draw(st.composite(cut)(rows))]
    merged = data.draw(st.composite(merged_in_some_order)(parts, SampleSet.merged))
    assert merged == whole
    assert SampleSet.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    assert summary(data.draw(st.permutations(rows))).samples == whole
    assert all(len(samples) <= (4 if key == "all" else 2) for key, samples in whole.by_key.items())


OBSERVED = st.tuples(
    YEARS | st.just(float("nan")),
    st.integers(-1, 1),
    st.integers(-1, 4),
    YEARS,
    YEARS,
    YEARS,
    st.integers(0, 8).map(lambda count: count / 8),
    st.just((float("nan"), float("nan"))) | st.tuples(st.integers(0, 60), st.integers(61, 120)),
    st.integers(-1, 3),
    st.integers(-1, 1),
)


def observations(rows: list[tuple[Any, ...]]) -> Observations:
    types = (np.float32, np.int8, np.int8, *[np.float32] * 6, np.int8, np.int16)
    flat = [(*row[:7], *row[7], *row[8:]) for row in rows]
    return Observations(*(np.array([row[i] for row in flat], kind) for i, kind in enumerate(types)))


def same_sums(a: MetricSums, b: MetricSums) -> bool:
    return a.images == b.images and np.array_equal(a.sums, b.sums) and np.array_equal(a.counts, b.counts)


@given(st.lists(OBSERVED, max_size=40), st.data())
def test_metrics_of_an_evaluation(rows: list[tuple[Any, ...]], data: st.DataObject) -> None:
    seen = observations(rows)
    whole = MetricSums.of(seen)
    parts = [observations(part) for part in data.draw(st.composite(cut)(rows))]
    merged = data.draw(st.composite(merged_in_some_order)([MetricSums.of(part) for part in parts], operator.add))
    assert same_sums(merged, whole)
    assert merged.values() == whole.values()
    assert set(whole.values()) == {*METRICS, *RANGE_METRICS}
    joined = Observations.joined(data.draw(st.permutations(parts)))
    assert same_sums(MetricSums.of(joined), whole)
    assert median_error_years(joined) == median_error_years(seen)
    assert np.array_equal(error_histogram(joined)[0], error_histogram(seen)[0])


PREDICTED = st.tuples(st.sampled_from([status.value for status in Status]), st.integers(1, 3))
"""An image's status, and how many rows it has."""


def prediction_rows(images: list[tuple[str, int]]) -> pa.Table:
    rows = [
        {"uri": str(image), "face_index": face, "status": status, "warning": "lost" if face % 2 else None}
        for image, (status, faces) in enumerate(images)
        for face in range(faces)
    ]
    return pa.Table.from_pylist(rows, schema=prediction_schema())


@given(st.lists(PREDICTED, max_size=25), st.data())
def test_counts_of_scored_units(images: list[tuple[str, int]], data: st.DataObject) -> None:
    whole = counts_of(prediction_rows(images), size_bytes=100)
    units = data.draw(st.composite(cut)(images))
    sizes = [100, *[0] * (len(units) - 1)]
    parts = [counts_of(prediction_rows(unit), size) for unit, size in zip(units, sizes, strict=True)]
    merged = data.draw(st.composite(merged_in_some_order)(parts, operator.add))
    assert merged == whole
    assert whole.images == len(images)
    assert whole.images_with_warning == sum(faces > 1 for _, faces in images)
    assert UnitCounts(**json.loads(json.dumps(asdict(whole)))) == whole
    for part in parts:
        assert (merged - part) + part == whole
        assert merged - part == sum((each for each in parts if each is not part), UnitCounts(by_status={}))


COUNTED = st.tuples(st.sampled_from(TALLIED), YEARS, st.integers(0, 512))


def tally(calls: list[tuple[str, float, int]]) -> Tally:
    total = Tally()
    for name, value, count in calls:
        total.add(name, value, count)
    return total


def both(a: Tally, b: Tally) -> Tally:
    """As ``tally_over_ranks`` adds, without a process group."""
    total = Tally()
    for part in (a, b):
        for name in part.sums:
            total.add(name, part.sums[name], part.counts[name])
    return total


@given(st.lists(COUNTED, max_size=40), st.data())
def test_sums_of_an_epoch(calls: list[tuple[str, float, int]], data: st.DataObject) -> None:
    whole = tally(calls)
    parts = [tally(part) for part in data.draw(st.composite(cut)(calls))]
    merged = data.draw(st.composite(merged_in_some_order)(parts, both))
    assert merged == whole
    assert merged.means() == whole.means()


@given(st.lists(COUNTED, max_size=20), YEARS, YEARS, st.integers(0, 10**6))
def test_sums_of_an_epoch_survive_a_checkpoint(
    calls: list[tuple[str, float, int]], seconds: float, waited_s: float, images: int
) -> None:
    sums = EpochSums(tally(calls), seconds, waited_s, images)
    plain: Callable[[EpochSums], dict[str, float]] = lambda epoch: json.loads(json.dumps(epoch.to_plain()))  # noqa: E731
    restored = EpochSums.from_plain(plain(sums))
    assert restored.tally.means() == sums.tally.means()
    assert (restored.seconds, restored.waited_s, restored.timed_images) == (seconds, waited_s, images)
    assert EpochSums.from_plain(plain(restored)) == restored
