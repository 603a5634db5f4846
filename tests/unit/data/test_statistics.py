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
from agegender.schema import FACTS


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
            "age_years": float(rng.integers(0, 117)) if rng.random() < 0.8 else None,
            "gender": int(rng.integers(0, 2)) if rng.random() < 0.8 else None,
            "race": int(rng.integers(0, 5)) if rng.random() < 0.5 else None,
            "label_problem": f"age {index} is outside 0-120: x{index}.jpg" if rng.random() < 0.1 else None,
        }
        rows.append(dict.fromkeys(FACTS.names) | row)
    return pa.Table.from_pylist(rows, schema=FACTS)


def summarised(table: pa.Table) -> SetStatistics:
    samples = SampleSet(seed=3, overall=5, per_group=2)
    for row in table.to_pylist():
        samples.add(row["uri"], row["age_years"], row["gender"], functools.partial(row["uri"].encode))
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


def test_counts_against_plain_arrays():
    table = facts(7, 500)
    summary, frame = summarised(table), table.to_pandas()
    assert summary.images == 500
    assert summary.labelled == (frame.age_years.notna() | frame.gender.notna()).sum()
    assert summary.by_status()["ok"] == (frame.status == "ok").sum()
    assert summary.by_gender() == {"male": (frame.gender == 0).sum(), "female": (frame.gender == 1).sum()}
    assert summary.by_age_group()["21-30"] == frame.age_years.between(21, 30).sum()
    assert summary.by_age_group()["1-10"] == frame.age_years.between(0, 10).sum()
    assert summary.by_age_group()["101+"] == (frame.age_years > 100).sum()
    assert sum(summary.by_age().values()) == frame.age_years.notna().sum()
    both = (frame.gender == 1) & frame.age_years.between(31, 40)
    assert summary.by_gender_and_age_group()["31-40"]["female"] == both.sum()
    assert summary.by_race()["indian"] == (frame.race == 3).sum()
    assert sum(summary.sizes.values()) == (frame.status == "ok").sum()
    assert summary.size_bytes == frame.size_bytes.sum()
    assert summary.problems == {"age is outside 0-120": frame.label_problem.notna().sum()}
    assert len(summary.examples["empty"]) <= 5
    means = np.stack(frame.channel_mean[frame.status == "ok"])
    squares = np.stack(frame.channel_mean_square[frame.status == "ok"])
    assert summary.channel_mean() == pytest.approx(means.mean(axis=0), abs=1e-5)
    assert summary.channel_std() == pytest.approx(np.sqrt(squares.mean(axis=0) - means.mean(axis=0) ** 2), abs=1e-4)


def test_an_empty_summary():
    summary = SetStatistics()
    assert (summary.by_status(), summary.by_age(), summary.by_race()) == ({"ok": 0}, {}, {})
    assert summary.most_frequent_age_group() is None
    assert summary.channel_mean() is None and summary.channel_std() is None


def test_the_youngest_of_equally_frequent_groups():
    rows = [dict.fromkeys(FACTS.names) | {"uri": str(a), "status": "ok", "age_years": a} for a in (55.0, 25.0)]
    table = pa.Table.from_pylist(rows, schema=FACTS)
    assert SetStatistics.of_facts(table).most_frequent_age_group() == "21-30"


def test_the_draw_is_the_lowest_hashes_and_follows_the_seed():
    uris = [f"{index}.jpg" for index in range(100)]

    def draw(seed: int) -> list[str]:
        samples = SampleSet(seed, overall=4, per_group=1)
        for uri in uris:
            samples.add(uri, 25.0, None, lambda: b"")
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
        samples.add(f"{index}.jpg", None, None, thumbnail)
    assert 2 <= made < 40


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("age 130 is outside 0-120: 130_0_0_20170101000000000.jpg", "age is outside 0-120"),
        ("gender 'x y' is not a number or a name", "gender is not a number or a name"),
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
