import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from agegender.data.splits import split_hash, split_table
from agegender.schema import FACTS, SPLIT, SPLIT_PARTS

NO_AGE = dict.fromkeys(("age_years", "age_low_years", "age_high_years"))


def make_facts(contents, folder="set", age=30.0):
    return pa.Table.from_pylist(
        [
            {
                "uri": f"{folder}/{row}.jpg",
                "status": "ok",
                "content_hash": hashlib.sha256(str(content).encode()).digest()[:16],
                "age_years": age,
                "age_low_years": age,
                "age_high_years": age,
                "gender": 1,
            }
            for row, content in enumerate(contents)
        ],
        FACTS,
    )


def parts_by_content(split):
    return dict(zip(split["content_hash"].to_pylist(), split["part"].to_pylist(), strict=True))


def random_groups(rng, rows):
    """Group ids as duplicates.group_ids gives them, many of one row and some of several."""
    return rng.integers(0, rows, size=rows)


def test_groups_never_straddle_parts_for_random_groupings():
    rng = np.random.default_rng(0)
    for seed in range(20):
        facts, groups = make_facts(range(300)), random_groups(rng, 300)
        split = split_table(facts, groups, 0.2, 0.2, seed)
        part = dict(zip(split["uri"].to_pylist(), split["part"].to_pylist(), strict=True))
        seen: dict[int, str] = {}
        for uri, group in zip(facts["uri"].to_pylist(), groups, strict=True):
            assert seen.setdefault(group, part[uri]) == part[uri]


def test_the_split_depends_on_content_alone():
    rng = np.random.default_rng(1)
    contents, groups = np.arange(500), random_groups(rng, 500)
    expected = split_table(make_facts(contents), groups, 0.1, 0.1, 7)
    order = rng.permutation(500)
    relabelled = (groups[order] * 31 + 5) % 15511  # other numbers for the same groups
    shuffled = split_table(make_facts(contents[order], folder="s3://elsewhere"), relabelled, 0.1, 0.1, 7)
    assert parts_by_content(shuffled) == parts_by_content(expected)
    assert shuffled["content_hash"].to_pylist() == expected["content_hash"].to_pylist()
    assert shuffled["group"].to_pylist() == expected["group"].to_pylist()
    assert split_hash(shuffled) == split_hash(expected)


def test_images_that_are_added_move_nobody_unless_they_join_the_group():
    rng = np.random.default_rng(2)
    groups = random_groups(rng, 400)
    before = split_table(make_facts(range(400)), groups, 0.2, 0.2, 0)
    more = np.concatenate([groups, 1000 + random_groups(rng, 200)])
    after = parts_by_content(split_table(make_facts(range(600)), more, 0.2, 0.2, 0))
    assert {content: after[content] for content in parts_by_content(before)} == parts_by_content(before)


def test_fractions_are_roughly_those_asked_for():
    split = split_table(make_facts(range(10_000)), np.arange(10_000), 0.1, 0.2, 3)
    counts = Counter(split["part"].to_pylist())
    # Four standard deviations of a binomial draw.
    assert abs(counts["val"] - 1000) < 120
    assert abs(counts["test"] - 2000) < 160
    assert sum(counts.values()) == 10_000
    assert set(counts) == set(SPLIT_PARTS)


def test_another_val_fraction_leaves_the_test_part():
    facts, ids = make_facts(range(500)), np.arange(500)
    one, other = (parts_by_content(split_table(facts, ids, val, 0.2, 3)) for val in (0.1, 0.4))
    assert {key for key, part in one.items() if part == "test"} == {
        key for key, part in other.items() if part == "test"
    }


def test_another_seed_draws_another_split():
    facts, ids = make_facts(range(200)), np.arange(200)
    one, other = (split_table(facts, ids, 0.2, 0.2, seed) for seed in (0, 1))
    assert parts_by_content(one) != parts_by_content(other)
    assert split_hash(one) != split_hash(other)


def test_only_usable_labelled_rows_are_split():
    rows = make_facts(range(6)).to_pylist()
    rows[0] |= {"status": "truncated"}
    rows[1] |= {"status": "empty", "content_hash": None}
    rows[2] |= NO_AGE | {"gender": None, "label_problem": "no label"}
    rows[3] |= NO_AGE
    rows[4] |= {"gender": None}
    split = split_table(pa.Table.from_pylist(rows, FACTS), np.zeros(6, dtype=np.int64), 0.2, 0.2, 0)
    assert sorted(split["uri"].to_pylist()) == ["set/3.jpg", "set/4.jpg", "set/5.jpg"]
    assert split.schema == SPLIT
    assert set(split["group"].to_pylist()) == {min(split["content_hash"].to_pylist())}


def test_byte_identical_copies_are_all_kept_in_one_part():
    split = split_table(make_facts([1, 2, 1, 1]), np.array([0, 1, 0, 0]), 0.5, 0.2, 0)
    assert split.num_rows == 4
    assert len(parts_by_content(split)) == 2


def test_nothing_usable_is_an_empty_table():
    facts = make_facts([1, 2], age=None).drop_columns("gender").append_column("gender", pa.nulls(2, pa.int8()))
    split = split_table(facts, np.arange(2), 0.1, 0.1, 0)
    assert split.num_rows == 0
    assert split.schema == SPLIT


def test_the_hash_is_fixed_for_all_time():
    # A model on disk carries this number: a change of it would make old splits look foreign.
    split = split_table(make_facts(range(50)), np.arange(50), 0.1, 0.1, 0)
    assert split_hash(split).startswith("e9b6861f2a8fa0d7")


@pytest.mark.parametrize(
    ("fractions", "ids"), [((0.6, 0.6), np.arange(3)), ((-0.1, 0.1), np.arange(3)), ((0.1, 0.1), np.arange(4))]
)
def test_impossible_arguments_are_refused(fractions: tuple[float, float], ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"fraction|group_ids"):
        split_table(make_facts(range(3)), ids, *fractions, 0)
