"""Train / val / test by group of duplicates: deterministic by content, free of leaks.

A group's part is a hash of the seed and of its smallest content hash. So it depends neither on row order, nor on where the
files lie, nor on how many workers looked; and images that are added later leave the part of every other image as it was,
unless they join its group.

Shapes: N rows of facts, M usable rows among them.
"""

import hashlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from agegender.schema import SPLIT, Status

_HASH_BYTES = 16


def split_table(
    facts: pa.Table, group_ids: npt.NDArray[np.int64], val_fraction: float, test_fraction: float, seed: int
) -> pa.Table:
    """Assign each usable image to a part, all images of a group to the same one.

    Args:
        facts: N rows of ``schema.FACTS``. Usable are those with status ok and an age or a gender.
        group_ids: int64[N]; equal numbers mark duplicates of each other. The numbers themselves mean nothing.
        val_fraction: share of the groups for ``val``, 0-1.
        test_fraction: share of the groups for ``test``, 0-1. It alone decides which groups those are: another
            ``val_fraction`` leaves them as they are.
        seed: another seed draws another split.

    Returns:
        M rows of ``schema.SPLIT``, sorted by content hash and then uri. A part may be empty where there are few groups.

    Raises:
        ValueError: the fractions exceed 1 together, or ``group_ids`` are not one per row.
    """
    if val_fraction < 0 or test_fraction < 0 or val_fraction + test_fraction > 1:
        raise ValueError(f"val_fraction {val_fraction} and test_fraction {test_fraction} are no shares of one whole")
    if group_ids.shape != (facts.num_rows,):
        raise ValueError(f"{facts.num_rows} rows of facts and group ids of shape {group_ids.shape}")
    labelled = pc.or_(pc.is_valid(facts["age_years"]), pc.is_valid(facts["gender"]))
    usable = pc.and_(pc.equal(facts["status"], Status.OK.value), labelled)
    groups_M = group_ids[np.asarray(usable, dtype=bool)]
    rows = facts.filter(usable)
    keys, key_index_M = _group_keys(rows["content_hash"], groups_M)
    parts = [_part(key, val_fraction, test_fraction, seed) for key in keys]
    split = rows.select(["uri", "content_hash", "age_years", "gender", "race"])
    split = split.append_column("group", pa.array(keys, pa.binary(_HASH_BYTES)).take(pa.array(key_index_M)))
    split = split.append_column("part", pa.array(parts, pa.string()).take(pa.array(key_index_M)))
    return split.select(SPLIT.names).cast(SPLIT).sort_by([("content_hash", "ascending"), ("uri", "ascending")])


def split_hash(split: pa.Table) -> str:
    """SHA-256, in hex, over the sorted content hashes and parts of the rows of ``schema.SPLIT``, wherever the files lie."""
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
    drawn = hashlib.sha256(f"agegender split {seed} ".encode() + key).digest()
    share = int.from_bytes(drawn[:8], "big") / 2**64
    if share < test_fraction:
        return "test"
    return "val" if share >= 1 - val_fraction else "train"
