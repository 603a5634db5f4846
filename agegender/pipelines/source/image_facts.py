"""One look at every image of a listing: units on Ray Data, one Parquet of facts each, and their summary.

    Listing -> [fetch, decode, facts, summary] per unit -> facts_uri/unit-*.parquet, SetStatistics

Image rows never reach the driver: a unit comes back as one small summary.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from ray.util.annotations import RayDeprecationWarning

from agegender.config import SourceOptions
from agegender.data.faces import FaceSearch, largest_face
from agegender.data.facts import image_facts
from agegender.data.samples import SampleSet, thumbnail_jpeg
from agegender.data.statistics import SetStatistics
from agegender.pipelines.runtime import metrics
from agegender.pipelines.runtime.progress import Progress
from agegender.pipelines.runtime.session import own_errors, restore_default_signal_handlers
from agegender.pipelines.source.listing import Listing, fetch, read_unit, unit_dataset, unit_name
from agegender.schema import FACTS
from agegender.storage import files, tables

_TASK_CPUS = 1.0
FACE_PX = 200
"""Side of a face that is cut out of a photograph, as of UTKFace's crops."""

_MAX_RETRIES = 3
"""Of a unit whose process died; Ray Data's default is for ever."""


def gather_facts(
    listing: Listing,
    options: SourceOptions,
    facts_uri: str,
    *,
    summary_uri: str | None = None,
    samples: SampleSet | None = None,
    search: FaceSearch | None = None,
    command: str = "eda",
    placement: dict[str, Any] | None = None,
) -> SetStatistics:
    """Note the facts of every listed image; units that are done already are not done again.

    Needs a running Ray. Each unit takes one CPU and holds one image and the facts of its rows at a time.

    Args:
        listing: what to look at.
        options: how bytes are read and bounded.
        facts_uri: folder for one Parquet of ``schema.FACTS`` per unit.
        summary_uri: folder for one summary per unit, which marks it done; default: ``_summaries`` inside facts_uri.
        search: how the labelled face of a photograph is found; None: images are face crops.
        command: that looks, for the metrics.
        samples: an empty draw that says how many images to draw and with which seed; None: none.
        placement: Ray's options of where the tasks may run; None: anywhere.

    Returns:
        The summary of all units.

    Raises:
        ResourceError: storage or cluster failed; finished units stay.
    """
    arguments = {
        "options": options,
        "facts_uri": facts_uri,
        "summary_uri": summary_uri or files.join(facts_uri, "_summaries"),
        "samples": samples or SampleSet(overall=0, per_group=0),
        "search": search,
    }
    total: SetStatistics | None = None
    with warnings.catch_warnings():
        # The only way to bound retries in Ray 2.60 is announced to go in 2.64; unbounded, a file that kills its process
        # would be tried for ever.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        found = unit_dataset(listing.units).map_batches(
            _unit_facts,
            fn_kwargs=arguments,
            batch_size=1,
            num_cpus=_TASK_CPUS,
            max_retries=_MAX_RETRIES,
            **(placement or {}),
        )
    with Progress(listing.images, "images", "look at images") as progress, own_errors():
        for row in found.iter_rows():
            part = SetStatistics.from_bytes(row["summary"])
            total = part if total is None else total.merged(part)
            bad = total.images - total.statuses["ok"]
            progress.update(part.images, bad=bad)
            metrics.count("agegender_units_total", 1, command)
            for status, images in part.statuses.items():
                metrics.count("agegender_images_total", images, command, status=str(status))
    return total or SetStatistics()


def facts_uris(listing: Listing, facts_uri: str) -> list[str]:
    """Where ``gather_facts`` writes, one address per unit, in the order of the listing."""
    return [_facts_uri(facts_uri, unit) for unit in listing.units]


def read_facts(listing: Listing, facts_uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """What ``gather_facts`` wrote, in the order of the listing; for sets whose facts fit into memory."""
    return pa.concat_tables(tables.read_table(uri, columns) for uri in facts_uris(listing, facts_uri))


def _facts_uri(facts_uri: str, unit: str) -> str:
    return files.join(facts_uri, unit_name(unit) + ".parquet")


def _unit_facts(
    batch: dict[str, npt.NDArray[Any]],
    options: SourceOptions,
    facts_uri: str,
    summary_uri: str,
    samples: SampleSet,
    search: FaceSearch | None,
) -> dict[str, npt.NDArray[Any]]:
    """The task: a unit's address in, its summary out; the facts go to storage from here."""
    restore_default_signal_handlers()
    summaries = [_summary(str(unit), options, facts_uri, summary_uri, samples, search) for unit in batch["unit"]]
    return {"summary": np.array(summaries, dtype=object)}


def _summary(
    unit: str,
    options: SourceOptions,
    facts_uri: str,
    summary_uri: str,
    samples: SampleSet,
    search: FaceSearch | None,
) -> bytes:
    done_uri = files.join(summary_uri, unit_name(unit) + ".json")
    if files.exists(done_uri):
        return files.read_bytes(done_uri)
    drawn = replace(samples, drawn={})
    facts = _look(read_unit(unit), options, drawn, search)
    tables.write_table(_facts_uri(facts_uri, unit), facts)
    summary = SetStatistics.of_facts(facts, drawn).to_bytes()
    files.write_bytes(done_uri, summary)  # last: from here on the unit counts as done
    return summary


def _look(listed: pa.Table, options: SourceOptions, samples: SampleSet, search: FaceSearch | None) -> pa.Table:
    cut = None if search is None else largest_face(search, FACE_PX)
    rows = []
    for label, got in zip(listed.to_pylist(), fetch(listed, options), strict=True):
        row, pixels = image_facts(label["uri"], got.data, (got.status, got.error), label, options.max_image_pixels, cut)
        rows.append(row)
        if pixels is not None:
            samples.offer(row["uri"], row["age_years"], row["gender"], partial(thumbnail_jpeg, pixels))
    return pa.Table.from_pylist(rows, schema=FACTS)
