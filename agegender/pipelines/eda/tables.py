"""Tables of eda that need the facts of all images: bad files, label problems and duplicates, written by one task.

It reads a few columns unit by unit, about 45 bytes of memory per image, with thumbnails in a file on its node's disk.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from agegender.data.duplicates import THUMBNAIL_SIDE_PX
from agegender.data.fingerprints import (
    DUPLICATES,
    FINGERPRINT_COLUMNS,
    DuplicateGroup,
    Fingerprints,
    count_duplicates,
    duplicate_groups,
)
from agegender.schema import FACTS, Status
from agegender.storage import files, tables

BAD_FILE_COLUMNS = ("uri", "status", "error", "size_bytes", "format")
PROBLEM_COLUMNS = ("uri", "label_problem")

_NOT_BAD = pa.array([Status.OK.value, Status.NO_FACE.value])


def write_lists(facts_uris: list[str], tables_uri: str, max_bits: int) -> dict[str, dict[str, int]]:
    """Write bad_files, label_problems and duplicates.parquet in a Ray task, to spare the driver's memory.

    Args:
        facts_uris: facts of every unit.
        tables_uri: folder of the tables.
        max_bits: maximum Hamming distance of the perceptual hashes of near duplicates.

    Returns:
        The result of ``count_duplicates``.
    """
    task = ray.remote(num_cpus=1, max_retries=3)(_write_lists)
    found: dict[str, dict[str, int]] = ray.get(task.remote(facts_uris, tables_uri, max_bits))
    return found


def _write_lists(facts_uris: list[str], tables_uri: str, max_bits: int) -> dict[str, dict[str, int]]:
    _write_rows(facts_uris, files.join(tables_uri, "bad_files.parquet"), BAD_FILE_COLUMNS, _bad)
    _write_rows(facts_uris, files.join(tables_uri, "label_problems.parquet"), PROBLEM_COLUMNS, _with_problem)
    with tempfile.TemporaryDirectory(prefix="agegender-") as folder:
        fingerprints = _fingerprints(facts_uris, Path(folder) / "thumbnails")
        groups = list(duplicate_groups(fingerprints, max_bits))
    uris = _addresses(facts_uris, groups)
    tables.write_table(files.join(tables_uri, "duplicates.parquet"), _table(groups, fingerprints, uris))
    return count_duplicates(groups)


def _bad(facts: pa.Table) -> pa.Table:
    return facts.filter(pc.invert(pc.is_in(facts["status"], value_set=_NOT_BAD)))


def _with_problem(facts: pa.Table) -> pa.Table:
    return facts.filter(pc.is_valid(facts["label_problem"]))


def _write_rows(facts_uris: list[str], target_uri: str, columns: tuple[str, ...], keep: Any) -> None:
    empty = pa.schema([FACTS.field(name) for name in columns]).empty_table()
    found = [keep(tables.read_table(uri, columns)) for uri in facts_uris]
    tables.write_table(target_uri, pa.concat_tables([empty, *found]))


def _fingerprints(facts_uris: list[str], thumbnails_path: Path) -> Fingerprints:
    counts = [tables.read_table(uri, ["status"]).num_rows for uri in facts_uris]
    shape = (sum(counts), THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX)
    fingerprints = Fingerprints.empty(shape[0], np.memmap(thumbnails_path, np.uint8, "w+", shape=shape))
    for uri, start in zip(facts_uris, np.cumsum([0, *counts]), strict=False):
        fingerprints.fill(int(start), tables.read_table(uri, FINGERPRINT_COLUMNS))
    return fingerprints


def _addresses(facts_uris: list[str], groups: list[DuplicateGroup]) -> dict[int, str]:
    """Index -> address, only of members of groups: all addresses would dominate memory."""
    members = np.unique(np.concatenate([np.empty(0, np.int64), *(group.members for group in groups)]))
    found: dict[int, str] = {}
    start = 0
    for uri in facts_uris:
        column = tables.read_table(uri, ["uri"])["uri"]
        here = members[(members >= start) & (members < start + len(column))]
        found.update(zip(here.tolist(), column.take(here - start).to_pylist(), strict=True))
        start += len(column)
    return found


def _table(groups: list[DuplicateGroup], fingerprints: Fingerprints, uris: dict[int, str]) -> pa.Table:
    rows = [
        {
            "kind": group.kind,
            "group": group.number,
            "uri": uris[index],
            **_ages(fingerprints.low_years[index], fingerprints.high_years[index]),
            "gender": _known(fingerprints.genders[index]),
            "contradicting": group.contradicting,
        }
        for group in groups
        for index in group.members.tolist()
    ]
    return pa.Table.from_pylist(rows, schema=DUPLICATES)


def _ages(low: np.float32, high: np.float32) -> dict[str, float | None]:
    return {
        "age_years": _known(low) if low == high else None,
        "age_low_years": _known(low),
        "age_high_years": _known(high),
    }


def _known(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)
