"""Fingerprints of an image set in compact columns, and its groups of duplicates.

Takes about 45 bytes of memory per image; thumbnails may be memory-mapped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from agegender.data import labels
from agegender.data.duplicates import (
    THUMBNAIL_SIDE_PX,
    Hashes,
    Indices,
    Mask,
    Pixels,
    content_keys,
    equal_groups,
    merge_groups,
    similar_pairs,
    stamp_keys,
)
from agegender.schema import age_end_years

FINGERPRINT_COLUMNS = (
    "uri",
    "content_hash",
    "perceptual_hash",
    "thumbnail",
    "age_low_years",
    "age_high_years",
    "gender",
)
"""Columns of ``schema.FACTS`` that are read."""

KINDS = ("exact", "near", "stamp")
"""Same bytes; perceptually similar with different bytes; same capture stamp."""

DUPLICATES = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),
        pa.field("group", pa.int64(), nullable=False),  # numbered from 0 within the kind
        pa.field("uri", pa.string(), nullable=False),
        pa.field("age_years", pa.float32()),  # null also where the age is a range
        pa.field("age_low_years", pa.float32()),
        pa.field("age_high_years", pa.float32()),
        pa.field("gender", pa.int8()),
        pa.field("contradicting", pa.bool_(), nullable=False),  # two ages or ranges do not meet, or genders differ
    ]
)


@dataclass(frozen=True)
class Fingerprints:
    """Columns over N images.

    Attributes:
        content, perceptual, stamps: uint64[N] keys, each with bool[N] of which are known.
        thumbnails: uint8[N, T, T].
        low_years, high_years: float32[N] age, or first and last year of its range; NaN where unlabelled.
        genders: float32[N], NaN where unlabelled.
    """

    content: Hashes
    content_known: Mask
    perceptual: Hashes
    perceptual_known: Mask
    stamps: Hashes
    stamps_known: Mask
    thumbnails: Pixels
    low_years: npt.NDArray[np.float32]
    high_years: npt.NDArray[np.float32]
    genders: npt.NDArray[np.float32]

    @classmethod
    def empty(cls, count: int, thumbnails: Pixels | None = None) -> Self:
        """Allocate columns for ``count`` images; ``thumbnails``: uint8[N, T, T] to use instead of memory."""
        side = THUMBNAIL_SIDE_PX
        return cls(
            *(np.zeros(count, np.uint64), np.zeros(count, np.bool_)),
            *(np.zeros(count, np.uint64), np.zeros(count, np.bool_)),
            *(np.zeros(count, np.uint64), np.zeros(count, np.bool_)),
            np.zeros((count, side, side), np.uint8) if thumbnails is None else thumbnails,
            *(np.full(count, np.nan, np.float32) for _ in range(3)),
        )

    def fill(self, start: int, facts: pa.Table) -> None:
        """Store facts (``FINGERPRINT_COLUMNS``) in the rows from ``start`` on."""
        rows = slice(start, start + facts.num_rows)
        columns = {name: facts[name].to_pylist() for name in FINGERPRINT_COLUMNS}
        self.content[rows], self.content_known[rows] = content_keys(columns["content_hash"])
        stamps = [labels.capture_stamp(uri) for uri in columns["uri"]]
        self.stamps[rows], self.stamps_known[rows] = stamp_keys(stamps)
        hashes = columns["perceptual_hash"]
        self.perceptual[rows] = np.array([value or 0 for value in hashes], dtype=np.uint64)
        self.perceptual_known[rows] = [value is not None for value in hashes]
        blank = bytes(THUMBNAIL_SIDE_PX**2)
        data = b"".join(value or blank for value in columns["thumbnail"])
        self.thumbnails[rows] = np.frombuffer(data, np.uint8).reshape(-1, THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX)
        for name, values in (("age_low_years", self.low_years), ("age_high_years", self.high_years)):
            values[rows] = [np.nan if value is None else value for value in columns[name]]
        self.genders[rows] = [np.nan if value is None else value for value in columns["gender"]]

    def groups(self, max_bits: int) -> dict[str, Indices]:
        """int64[N] per kind: the smallest index of the image's group; ``near`` includes ``exact``."""
        exact = equal_groups(self.content, self.content_known)
        pairs = similar_pairs(self.perceptual, self.perceptual_known, self.thumbnails, max_bits)
        stamp = equal_groups(self.stamps, self.stamps_known)
        return {"exact": exact, "near": merge_groups([exact], pairs), "stamp": stamp}


def group_ids_of_facts(facts: pa.Table, max_bits: int) -> Indices:
    """Group ids of duplicates that must stay in one part: same bytes, similar (confirmed by thumbnail), same capture stamp.

    Args:
        facts: rows of ``schema.FACTS``, of which ``FINGERPRINT_COLUMNS`` are read.
        max_bits: maximum Hamming distance of perceptual hashes.

    Returns:
        int64[N]: the smallest row index of the image's group.
    """
    fingerprints = Fingerprints.empty(facts.num_rows)
    fingerprints.fill(0, facts)
    return merge_groups(list(fingerprints.groups(max_bits).values()), np.empty((0, 2), np.int64))


@dataclass(frozen=True)
class DuplicateGroup:
    """A group of duplicates of one kind; ``members``: int64[G], indices of its images."""

    kind: str
    number: int
    members: Indices
    contradicting: bool


def duplicate_groups(fingerprints: Fingerprints, max_bits: int) -> Iterator[DuplicateGroup]:
    """Each group of at least two images, by kind; a near group has at least two different files."""
    groups = fingerprints.groups(max_bits)
    for kind in KINDS:
        number = 0
        for members in _members(groups[kind]):
            if kind == "near" and len(np.unique(groups["exact"][members])) == 1:
                continue
            ages = fingerprints.low_years[members], fingerprints.high_years[members]
            contradicting = _apart(*ages) or _differ(fingerprints.genders[members])
            yield DuplicateGroup(kind, number, members, contradicting)
            number += 1


def _members(groups: Indices) -> Iterator[Indices]:
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.diff(groups[order], prepend=-1))
    for members in np.split(order, first[1:]):
        if len(members) > 1:
            yield members


def _differ(values: npt.NDArray[np.float32]) -> bool:
    return len(np.unique(values[~np.isnan(values)])) > 1


def _apart(low_years: npt.NDArray[np.float32], high_years: npt.NDArray[np.float32]) -> bool:
    """Whether two of some ages or ranges of ages have no moment in common."""
    known = ~np.isnan(low_years)
    low, high = low_years[known], high_years[known]
    return bool(low.size and low.max() > age_end_years(low, high).min())


def count_duplicates(groups: list[DuplicateGroup]) -> dict[str, dict[str, int]]:
    """Kind -> ``groups``, ``images`` in them, and ``contradicting_groups``, in which labels differ."""
    return {
        kind: {
            "groups": sum(group.kind == kind for group in groups),
            "images": sum(len(group.members) for group in groups if group.kind == kind),
            "contradicting_groups": sum(group.contradicting for group in groups if group.kind == kind),
        }
        for kind in KINDS
    }
