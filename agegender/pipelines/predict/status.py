"""Progress of a predict run, read from its output; no Ray, and nothing is changed."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agegender.config import StatusConfig
from agegender.errors import InputError
from agegender.pipelines.predict.ledger import UnitCounts, part_counts, parts_of, staged_units
from agegender.pipelines.predict.rescore import RescoreCollector
from agegender.pipelines.runtime.layout import OutputLayout, listing_index
from agegender.pipelines.runtime.run_record import read_record
from agegender.schema import Status
from agegender.storage import files

EXAMPLES = 3
"""For each bad status."""


def run_status(config: StatusConfig) -> dict[str, Any]:
    """Count the scored, published and remaining images of the run in OUTPUT, by status, with examples of failures.

    Raises:
        InputError: OUTPUT has no predict run.
    """
    output = files.absolute(config.output)
    record = read_record(output, "predict")
    if record is None:
        raise InputError(f"{output} holds no predict run: _run.json is missing. Give the OUTPUT of `agegender predict`")
    listing_uri = listing_index(OutputLayout(output).listing)
    listed = files.read_json(listing_uri)["images"] if files.exists(listing_uri) else None
    parts = parts_of(output)
    published = sum((part_counts(uri) for _, _, uri in parts), UnitCounts())
    after = parts[-1][1] if parts else -1
    staged = {number: counts for number, counts in staged_units(output).items() if number > after}
    scored = sum(staged.values(), published)
    by_status = scored.by_status or {}
    return {
        "output": output,
        "state": record["state"],
        "error": record.get("error"),
        "listed": "not finished" if listed is None else listed,
        "scored": scored.images,
        "left": "unknown" if listed is None else listed - scored.images,
        "left_to_score_again": RescoreCollector(output).images or None,
        "readable_in_parts": published.images,
        "parts": len(parts),
        "by_status": by_status,
        "images_with_warning": scored.images_with_warning,
        "failed": _failed([uri for _, _, uri in parts], by_status),
        "changed_files": record["result"].get("changed_files"),
        "changed_examples": record["result"].get("changed_examples"),
        "model": record["config"]["model"],
    }


def _failed(parts: list[str], by_status: dict[str, int]) -> list[str] | None:
    """A line for each of a few published images of every bad status."""
    remaining = {name: min(EXAMPLES, n) for name, n in by_status.items() if Status(name).is_bad}
    lines = []
    for uri in parts:
        if not any(remaining.values()):
            break  # avoid opening all parts
        for row in _rows_of(uri, [name for name, n in remaining.items() if n]):
            if remaining[row["status"]]:
                remaining[row["status"]] -= 1
                lines.append(f"{row['status']}: {row['uri']}: {row['error']}")
    return sorted(lines) or None


def _rows_of(part: str, statuses: list[str]) -> Iterator[dict[str, Any]]:
    with files.open_for_reading(part) as stream:
        for batch in pq.ParquetFile(stream).iter_batches(columns=["uri", "status", "error"]):
            status = batch.column("status").cast(pa.string())
            yield from batch.filter(pc.is_in(status, value_set=pa.array(statuses, pa.string()))).to_pylist()
