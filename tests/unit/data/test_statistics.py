import functools
import hashlib
import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from agegender.data.heaping import age_heaping
from agegender.data.samples import ALL, SampleSet
from agegender.data.statistics import SetStatistics, problem_kind, ranked
from agegender.schema import FACTS, RACES


def random_age(rng: np.random.Generator) -> dict[str, float | None]:
    """An exact age, a range of five years, or none."""
    low, draw = float(rng.integers(0, 112)), rng.random()
    if draw < 0.2:
        return exact_age(None)
    return exact_age(low) if draw < 0.7 else {"age_years": None, "age_low_years": low, "age_high_years": low + 4}


def exact_age(years: float | None) -> dict[str, float | None]:
    return dict.fromkeys(("age_years", "age_low_years", "age_high_years"), years)


def facts(seed: int, count: int) -> pa.Table:
    """Random rows with every kind of gap."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        ok = rng.random() < 0.9
        mean = rng.random(3) * 255
        row = {
            "uri": f"folder/{seed}-{index}.jpg",
            "status": "ok" if ok else str(rng.choice(["empty", "truncated"])),
            "error": None if ok else "words",
            "width": int(rng.integers(1, 4)) if ok else None,
            "height": 2 if ok else None,
            "format": str(rng.choice(["JPEG", "PNG"])) if ok else None,
            "size_bytes": int(rng.integers(0, 1000)),
            "channel_mean": mean.tolist() if ok else None,
            "channel_mean_square": (mean**2 + 100).tolist() if ok else None,
            **random_age(rng),
            "gender": int(rng.integers(0, 2)) if rng.random() < 0.8 else None,
            "race": str(rng.choice(RACES)) if rng.random() < 0.5 else None,
            "label_problem": f"age {index} is outside 0-120: x{index}.jpg" if rng.random() < 0.1 else None,
        }
        rows.append(dict.fromkeys(FACTS.names) | row)
    return pa.Table.from_pylist(rows, schema=FACTS)


def summarised(table: pa.Table) -> SetStatistics:
    samples = SampleSet(seed=3, overall=5, per_group=2)
    for row in table.to_pylist():
        samples.add(
            row["uri"],
            (row["age_low_years"], row["age_high_years"]),
            row["gender"],
            functools.partial(row["uri"].encode),
        )
    return SetStatistics.of_facts(table, samples)


@pytest.mark.parametrize("seed", range(5))
def test_merging_in_any_order_equals_one_pass(seed):
    table = facts(seed, 300)
    rng = np.random.default_rng(seed)
    cuts = [0, *sorted(rng.integers(0, 301, 4).tolist()), 300]
    parts = [summarised(table.slice(a, b - a)) for a, b in itertools.pairwise(cuts)]
    whole = summarised(table)
    left = functools.reduce(lambda a, b: a.merged(b), parts)
    shuffled = [parts[i] for i in rng.permutation(len(parts))]
    right = functools.reduce(lambda a, b: b.merged(a), shuffled)
    assert left == whole
    assert right == whole


def test_what_is_listed_in_order_does_not_hang_on_the_order_of_merging():
    parts = [SetStatistics(problems=Counter({kind: 1}), examples={kind: [("a", "b")]}) for kind in "dacb"]
    for order in itertools.permutations(parts):
        whole = functools.reduce(lambda a, b: a.merged(b), order, SetStatistics(problems=Counter(e=2)))
        assert ranked(whole.problems) == [("e", 2), ("a", 1), ("b", 1), ("c", 1), ("d", 1)]
        assert list(whole.examples) == ["a", "b", "c", "d"]


def test_a_summary_survives_travel():
    whole = summarised(facts(1, 200))
    assert SetStatistics.from_bytes(whole.to_bytes()) == whole


GROUP_ENDS = [(0, 10), *((first, first + 9) for first in range(11, 101, 10)), (101, 120)]


def within(frame, low, high):
    return (frame.age_low_years >= low) & (frame.age_high_years <= high)


def test_counts_against_plain_arrays():
    table = facts(7, 500)
    summary, frame = summarised(table), table.to_pandas()
    assert summary.images == 500
    assert summary.labelled == (frame.age_low_years.notna() | frame.gender.notna()).sum()
    assert summary.by_status()["ok"] == (frame.status == "ok").sum()
    assert summary.by_gender() == {"male": (frame.gender == 0).sum(), "female": (frame.gender == 1).sum()}
    assert summary.by_age_group()["21-30"] == within(frame, 21, 30).sum()
    assert summary.by_age_group()["1-10"] == within(frame, 0, 10).sum()
    assert summary.by_age_group()["101+"] == within(frame, 101, 120).sum()
    ranged = frame[frame.age_low_years < frame.age_high_years]
    assert summary.by_age_range() == {(low, low + 4): n for low, n in sorted(Counter(ranged.age_low_years).items())}
    assert summary.age_labels() == {
        "exact": frame.age_years.notna().sum(),
        "range": len(ranged),
        "spans_groups": len(ranged) - sum(within(ranged, *ends).sum() for ends in GROUP_ENDS),
    }
    assert sum(summary.by_age().values()) == frame.age_years.notna().sum()
    both = (frame.gender == 1) & within(frame, 31, 40)
    assert summary.by_gender_and_age_group()["31-40"]["female"] == both.sum()
    assert summary.by_race()["indian"] == (frame.race == "indian").sum()
    assert sum(summary.sizes.values()) == (frame.status == "ok").sum()
    assert summary.size_bytes == frame.size_bytes.sum()
    assert summary.problems == {"age is outside 0-120": frame.label_problem.notna().sum()}
    assert len(summary.examples["empty"]) <= 5
    means = np.stack(frame.channel_mean[frame.status == "ok"])
    squares = np.stack(frame.channel_mean_square[frame.status == "ok"])
    assert summary.channel_mean() == pytest.approx(means.mean(axis=0), abs=1e-5)
    assert summary.channel_std() == pytest.approx(np.sqrt(squares.mean(axis=0) - means.mean(axis=0) ** 2), abs=1e-4)


def test_groups_that_a_set_names_itself():
    names = ["East Asian"] * 3 + ["White"] * 2 + [f"tribe {index:02d}" for index in range(30)]
    rows = [dict.fromkeys(FACTS.names) | {"uri": str(i), "status": "ok", "race": name} for i, name in enumerate(names)]
    groups = SetStatistics.of_facts(pa.Table.from_pylist(rows, schema=FACTS)).by_race()
    assert list(groups.items())[:3] == [("East Asian", 3), ("White", 2), ("tribe 00", 1)]
    assert (len(groups), groups["other groups"], sum(groups.values())) == (21, 12, 35)


def test_a_column_of_many_names_takes_bounded_memory():
    rows = [dict.fromkeys(FACTS.names) | {"uri": str(i), "status": "ok", "race": f"{i:04d}"} for i in range(2500)]
    table = pa.Table.from_pylist(rows, schema=FACTS)
    whole = SetStatistics.of_facts(table)
    parts = [SetStatistics.of_facts(table.slice(start, 500)) for start in range(0, 2500, 500)]
    assert len(whole.labels) == 1001
    assert functools.reduce(lambda a, b: b.merged(a), parts) == whole
    assert sum(whole.by_race().values()) == 2500


def test_an_empty_summary():
    summary = SetStatistics()
    assert (summary.by_status(), summary.by_age(), summary.by_race()) == ({"ok": 0}, {}, {})
    assert summary.most_frequent_age_group() is None
    assert summary.channel_mean() is None and summary.channel_std() is None


def test_the_youngest_of_equally_frequent_groups():
    rows = [dict.fromkeys(FACTS.names) | {"uri": str(a), "status": "ok"} | exact_age(a) for a in (55.0, 25.0)]
    table = pa.Table.from_pylist(rows, schema=FACTS)
    assert SetStatistics.of_facts(table).most_frequent_age_group() == "21-30"


@pytest.mark.parametrize(("spanning", "group"), [(1, "1-10"), (2, None)])
def test_ranges_that_span_groups_may_hide_the_most_frequent_group(spanning, group):
    ages = [(3, 9)] * 3 + [(25, 25)] * 2 + [(15, 25)] * spanning
    rows = [
        dict.fromkeys(FACTS.names) | {"uri": str(i), "status": "ok", "age_low_years": low, "age_high_years": high}
        for i, (low, high) in enumerate(ages)
    ]
    summary = SetStatistics.of_facts(pa.Table.from_pylist(rows, schema=FACTS))
    assert summary.most_frequent_age_group() == group
    assert summary.age_labels() == {"exact": 2, "range": 3 + spanning, "spans_groups": spanning}


def test_the_draw_is_the_lowest_hashes_and_follows_the_seed():
    uris = [f"{index}.jpg" for index in range(100)]

    def draw(seed: int) -> list[str]:
        samples = SampleSet(seed, overall=4, per_group=1)
        for uri in uris:
            samples.add(uri, (25.0, 25.0), None, lambda: b"")
        assert len(samples.by_key["21-30"]) == 1
        return [sample.uri for sample in samples.by_key[ALL]]

    def rank(uri: str) -> bytes:
        return hashlib.blake2b(f"9|{uri}".encode(), digest_size=8).digest()

    assert draw(9) == sorted(uris, key=rank)[:4]
    assert draw(8) != draw(9)


def test_a_thumbnail_is_made_only_for_who_gets_in():
    made = 0

    def thumbnail() -> bytes:
        nonlocal made
        made += 1
        return b""

    samples = SampleSet(0, overall=2, per_group=0)
    for index in range(1000):
        samples.add(f"{index}.jpg", (None, None), None, thumbnail)
    assert 2 <= made < 40


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("age 130 is outside 0-120: 130_0_0_20170101000000000.jpg", "age is outside 0-120"),
        ("gender 'x y' is neither male nor female", "gender is neither male nor female"),
        ('age "it\'s" is not a number or a range', "age is not a number or a range"),
        ("age '3-Sep' is a date: Excel made it of the range 3-9?", "age is a date"),
        ("3 fields expected before the stamp, 2 found: a.jpg", "3 fields expected before the stamp, 2 found"),
    ],
)
def test_problems_are_counted_by_kind(problem, kind):
    assert problem_kind(problem) == kind


def test_even_ages_do_not_heap():
    heaping = age_heaping(dict.fromkeys(range(1, 100), 50))
    assert (heaping.index_5, heaping.index_10, heaping.standing_out) == (100.0, 100.0, {})


def test_heaped_ages_are_found():
    ages = dict.fromkeys(range(1, 100), 50) | {26: 200, 30: 90, 40: 150}
    heaping = age_heaping(ages)
    assert heaping.standing_out == {26: 4.0, 40: 3.0}
    assert heaping.index_10 == pytest.approx(100 * 10 * 340 / (40 * 50 + 150 + 40 + 100))
    assert age_heaping({5: 3}).index_5 is None
    only_fives = age_heaping(dict.fromkeys(range(0, 100, 5), 10))
    assert only_fives.index_5 == 500


def test_a_few_old_people_are_no_heap():
    assert age_heaping({90: 1, 92: 1, 95: 5, 96: 1}).standing_out == {}
