"""Split into train, val and test by group of duplicates: deterministic by content, without leakage.

A group's part is determined by a hash of the seed and the group's smallest content hash. It does not depend on row order,
file locations or the number of workers, and images that are added later do not change the part of others, unless they join
their group.

Shapes: N rows of facts, M usable rows among them.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from agegender.schema import LABEL_FIELDS, SOURCE, SPLIT, Status

_HASH_BYTES = 16


def split_table(
    facts: pa.Table, group_ids: npt.NDArray[np.int64], val_fraction: float, test_fraction: float, seed: int
) -> pa.Table:
    """Assign each usable image to a part, all images of a group to the same one.

    Args:
        facts: N rows of ``schema.FACTS``. Usable rows have status ok and an age, a range or a gender.
        group_ids: int64[N]; images with equal ids are duplicates.
        val_fraction: share of the groups for ``val``, 0-1.
        test_fraction: share of the groups for ``test``, 0-1. The test part does not depend on ``val_fraction``.
        seed: of the split.

    Returns:
        M rows of ``schema.SPLIT``, sorted by content hash and then uri. With few groups a part may be empty.

    Raises:
        ValueError: a fraction is negative, their sum exceeds 1, or ``group_ids`` does not have one per row.
    """
    if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction > 1:
        raise ValueError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction}: must be at least 0 and at most 1 together"
        )
    if group_ids.shape != (facts.num_rows,):
        raise ValueError(f"group_ids has shape {group_ids.shape}, expected ({facts.num_rows},)")
    labelled = pc.or_(pc.is_valid(facts["age_low_years"]), pc.is_valid(facts["gender"]))
    usable = pc.and_(pc.equal(facts["status"], Status.OK.value), labelled)
    groups_M = group_ids[np.asarray(usable, dtype=bool)]
    rows = facts.filter(usable)
    keys, key_index_M = _group_keys(rows["content_hash"], groups_M)
    parts = [_part(key, val_fraction, test_fraction, seed) for key in keys]
    split = rows.select(["uri", "content_hash", *(field.name for field in LABEL_FIELDS), SOURCE.name])
    split = split.append_column("group", pa.array(keys, pa.binary(_HASH_BYTES)).take(pa.array(key_index_M)))
    split = split.append_column("part", pa.array(parts, pa.string()).take(pa.array(key_index_M)))
    return split.select(SPLIT.names).cast(SPLIT).sort_by([("content_hash", "ascending"), ("uri", "ascending")])


def split_hash(split: pa.Table) -> str:
    """SHA-256 in hex over the sorted content hashes and parts of ``schema.SPLIT`` rows; independent of file locations."""
    rows = zip(split["content_hash"].to_pylist(), split["part"].to_pylist(), strict=True)
    digest = hashlib.sha256()
    for line in sorted(content + part.encode() for content, part in rows):
        digest.update(line + b"\n")
    return digest.hexdigest()


def _group_keys(content: pa.ChunkedArray, groups_M: npt.NDArray[np.int64]) -> tuple[list[bytes], npt.NDArray[np.int64]]:
    """The smallest content hash of each group, and for each of the M rows the index of its group's."""
    hashes = b"".join(content.to_pylist())
    words = np.frombuffer(hashes, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((words[:, 1], words[:, 0], groups_M))
    _, first, key_index_M = np.unique(groups_M[order], return_index=True, return_inverse=True)
    index_M = np.empty(len(order), dtype=np.int64)
    index_M[order] = key_index_M
    return [hashes[_HASH_BYTES * row : _HASH_BYTES * (row + 1)] for row in order[first]], index_M


def _part(key: bytes, val_fraction: float, test_fraction: float, seed: int) -> str:
    digest = hashlib.sha256(f"agegender split {seed} ".encode() + key).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    if share < test_fraction:
        return "test"
    return "val" if share >= 1 - val_fraction else "train"
