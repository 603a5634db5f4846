"""How far a predict run is, read from what it wrote; no Ray, and nothing is changed."""

from typing import Any

from agegender.config import StatusConfig
from agegender.errors import InputError
from agegender.pipelines.ledger import UnitCounts, part_counts, parts_of, staged_units
from agegender.pipelines.record import read_record
from agegender.storage import files


def run_status(config: StatusConfig) -> dict[str, Any]:
    """Images scored, published and left of the run in OUTPUT, and the images by status.

    Raises:
        InputError: OUTPUT holds no predict run.
    """
    output = files.absolute(config.output)
    record = read_record(output, "predict")
    if record is None:
        raise InputError(
            f"{output} holds no predict run: _run.json is not there. Give the --output of `agegender predict`"
        )
    listing_uri = files.join(output, "_work", "listing", "listing.json")
    listed = files.read_json(listing_uri)["images"] if files.exists(listing_uri) else None
    parts = parts_of(output)
    published = sum((part_counts(uri) for _, _, uri in parts), UnitCounts())
    after = parts[-1][1] if parts else -1
    scored = sum((counts for number, counts in staged_units(output).items() if number > after), published)
    return {
        "output": output,
        "state": record["state"],
        "listed": "not finished" if listed is None else listed,
        "scored": scored.images,
        "left": "unknown" if listed is None else listed - scored.images,
        "readable_in_parts": published.images,
        "parts": len(parts),
        "by_status": scored.by_status or {},
        "model": record["config"]["model"],
    }
