from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from agegender.data import duplicates, synthetic
from agegender.data.facts import image_facts
from agegender.data.fingerprints import (
    KINDS,
    Fingerprints,
    count_duplicates,
    duplicate_groups,
    group_ids_of_facts,
)
from agegender.data.images import decode
from agegender.schema import FACTS, Status
from tests.support.corpus import pixels_of

SIDE = duplicates.THUMBNAIL_SIDE_PX


def drawing(index: int) -> np.ndarray:
    return pixels_of(decode(synthetic.draw_sample(index, 5, 96)[1], 10**6))


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def close_hashes(seed: int, count: int = 400) -> np.ndarray:
    """Random hashes, each followed by one that differs in 0 to 11 bits."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 2**64, count, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 12), replace=False)) for _ in range(count)]
    return np.concatenate([first, first ^ np.array(flips, np.uint64), first[:20]])


@pytest.mark.parametrize("max_bits", [0, 1, 4, 8, 16, 63])
def test_near_pairs_equal_brute_force(max_bits):
    hashes = close_hashes(max_bits)
    every = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= max_bits
    np.testing.assert_array_equal(duplicates.near_pairs(hashes, max_bits), np.argwhere(np.triu(every, 1)))


def test_near_pairs_across_the_tiles_of_one_bucket():
    hashes = np.zeros(2100, np.uint64)
    assert len(duplicates.near_pairs(hashes, 2)) == 2100 * 2099 // 2


@pytest.mark.parametrize("count", [0, 1])
def test_near_pairs_of_nothing(count):
    assert duplicates.near_pairs(np.zeros(count, np.uint64), 4).shape == (0, 2)


def test_copies_are_alike_and_strangers_are_not():
    pictures = [drawing(index) for index in range(30)]
    fingerprints = [duplicates.perceptual_fingerprint(picture) for picture in pictures]
    for picture, (found, thumbnail) in zip(pictures, fingerprints, strict=True):
        image = Image.fromarray(picture)
        for copy in (as_jpeg(picture, 50), np.asarray(image.resize((48, 48))), np.asarray(image.resize((144, 144)))):
            again, again_thumbnail = duplicates.perceptual_fingerprint(copy)
            assert found is not None and again is not None
            assert (found ^ again).bit_count() <= 8
            assert duplicates.thumbnails_match(thumbnail[None], again_thumbnail[None]).all()
    hashes = np.array([found for found, _ in fingerprints], np.uint64)
    thumbnails = np.array([thumbnail for _, thumbnail in fingerprints])
    assert len(duplicates.similar_pairs(hashes, np.ones(30, bool), thumbnails, 8)) == 0


def test_a_blank_page_has_no_looks():
    assert duplicates.perceptual_hash(np.full((50, 70, 3), 250, np.uint8)) is None
    blank = np.full((1, SIDE, SIDE), 250, np.uint8)
    assert not duplicates.thumbnails_match(blank, blank).any()


def test_groups_join_transitively_over_bytes_looks_and_stamps():
    content = [b"a" * 16, b"b" * 16, b"b" * 16, b"c" * 16, b"d" * 16, None, None]
    perceptual = [0, 0xFF << 8, 0xFF << 16, 0b11, 0xFF << 24, None, None]
    stamps = [None, None, "20170101000000000", None, "20170101000000000", None, None]
    assert duplicates.group_ids(content, perceptual, stamps, 2).tolist() == [0, 1, 1, 0, 1, 5, 6]
    assert duplicates.group_ids(content, perceptual, None, 1).tolist() == [0, 1, 1, 3, 4, 5, 6]


def test_a_thumbnail_that_disagrees_parts_what_the_hash_joins():
    rng = np.random.default_rng(0)
    thumbnails = rng.integers(0, 255, (2, SIDE, SIDE), dtype=np.uint8)
    assert duplicates.group_ids([b"a" * 16, b"b" * 16], [1, 1], None, 0, thumbnails).tolist() == [0, 1]
    thumbnails[1] = thumbnails[0]
    assert duplicates.group_ids([b"a" * 16, b"b" * 16], [1, 1], None, 0, thumbnails).tolist() == [0, 0]


def test_merge_groups_equals_naive_components():
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, 200, (120, 2))
    groups = np.arange(200)
    for _ in range(200):
        for a, b in pairs:
            groups[a] = groups[b] = min(groups[a], groups[b])
    np.testing.assert_array_equal(duplicates.merge_groups([np.arange(200)], pairs), groups)


@pytest.fixture
def facts() -> pa.Table:
    """0-1 the same bytes with other ages, 2 a re-encoded copy of 0, 3-4 one stamp and other pictures, 5 broken, 6 alone."""
    jpegs = [synthetic.draw_sample(index, 5, 96)[1] for index in (0, 1, 2, 3)]
    buffer = BytesIO()
    Image.open(BytesIO(jpegs[0])).save(buffer, "JPEG", quality=60)
    rows = [
        ("20_0_0_20170101000000001.jpg", jpegs[0], {"age_low_years": 20.0, "age_high_years": 20.0, "gender": 0}),
        ("31_0_0_20170101000000002.jpg", jpegs[0], {"age_low_years": 31.0, "age_high_years": 31.0, "gender": 0}),
        (
            "20_0_0_20170101000000003.jpg",
            buffer.getvalue(),
            {"age_low_years": 20.0, "age_high_years": 20.0, "gender": 0},
        ),
        ("40_1_0_20170101000000004.jpg", jpegs[1], {"age_low_years": 40.0, "age_high_years": 40.0, "gender": 1}),
        ("40_1_1_20170101000000004.jpg", jpegs[2], {"age_low_years": 40.0, "age_high_years": 40.0, "gender": 1}),
        ("broken.jpg", b"no image", {}),
        ("alone.jpg", jpegs[3], {}),
    ]
    made = [image_facts(uri, data, (Status.OK, None), label, 10**6)[0] for uri, data, label in rows]
    return pa.Table.from_pylist(made, schema=FACTS)


def test_groups_of_facts(facts):
    assert group_ids_of_facts(facts, 8).tolist() == [0, 0, 0, 3, 3, 5, 6]


def test_duplicate_groups_by_kind_and_their_contradictions(facts):
    fingerprints = Fingerprints.empty(facts.num_rows)
    fingerprints.fill(0, facts.slice(0, 3))
    fingerprints.fill(3, facts.slice(3))
    found = {group.kind: (group.members.tolist(), group.contradicting) for group in duplicate_groups(fingerprints, 8)}
    assert found == {"exact": ([0, 1], True), "near": ([0, 1, 2], True), "stamp": ([3, 4], False)}
    counted = count_duplicates(list(duplicate_groups(fingerprints, 8)))
    assert tuple(counted) == KINDS
    assert counted["near"] == {"groups": 1, "images": 3, "contradicting_groups": 1}
    assert counted["stamp"] == {"groups": 1, "images": 2, "contradicting_groups": 0}


def test_a_near_group_holds_two_different_files(facts):
    fingerprints = Fingerprints.empty(2)
    fingerprints.fill(0, facts.slice(0, 2))
    assert [group.kind for group in duplicate_groups(fingerprints, 8)] == ["exact"]


@pytest.mark.parametrize(
    ("ages", "contradicting"),
    [
        (((20, 29), (25, 32)), False),
        (((20, 29), (30, 39)), True),
        (((20, 29), (29.5, 29.5)), False),
        (((20, 29), (30, 30)), True),
        (((31, 31), (31, 31)), False),
        (((31, 31), (31.5, 31.5)), True),
        (((None, None), (31, 31)), False),
        (((0, 120), (10, 20), (15, 30)), False),
        (((10, 20), (0, 120), (40, 50)), True),
    ],
)
def test_ranges_that_do_not_meet_contradict(ages, contradicting):
    rows = [
        dict.fromkeys(FACTS.names)
        | {"uri": f"{i}.jpg", "status": "ok", "content_hash": b"0" * 16, "age_low_years": low, "age_high_years": high}
        for i, (low, high) in enumerate(ages)
    ]
    fingerprints = Fingerprints.empty(len(rows))
    fingerprints.fill(0, pa.Table.from_pylist(rows, schema=FACTS))
    assert [group.contradicting for group in duplicate_groups(fingerprints, 8)] == [contradicting]
