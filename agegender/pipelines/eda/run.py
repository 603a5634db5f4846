"""Describe an image set.

Listing -> gather_facts (tables/images/, one summary per unit) -> write_lists (duplicates, bad files) -> summary.json, tables, report
"""

import logging
from typing import Any

import pyarrow as pa

from agegender import __version__
from agegender.config import EdaConfig
from agegender.data.face_searches import FaceSearches
from agegender.data.heaping import age_heaping
from agegender.data.samples import SampleSet
from agegender.data.statistics import SetStatistics, ranked
from agegender.errors import InputError
from agegender.options import LABELS, OUTPUT, REPORT
from agegender.pipelines.eda.tables import write_lists
from agegender.pipelines.runtime.detector import labelled_face_searches, search_identity
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.pipelines.runtime.placement import Placement
from agegender.pipelines.runtime.run_record import (
    DONE,
    claim_output,
    discard_run,
    failure_recorded,
    finish_record,
    read_record,
)
from agegender.pipelines.runtime.session import own_errors, ray_session
from agegender.pipelines.source.image_facts import gather_facts
from agegender.pipelines.source.inputs import check_inputs
from agegender.pipelines.source.listing import Listing
from agegender.pipelines.source.streaming_listing import drain
from agegender.reports.eda import eda_page
from agegender.schema import CONTRACT_VERSION, GENDERS, age_text
from agegender.storage import files, tables

logger = logging.getLogger(__name__)

_AGE_RANGES = pa.schema(
    [pa.field("age_low_years", pa.int16()), pa.field("age_high_years", pa.int16()), pa.field("images", pa.int64())]
)

LISTED_SIZES = 20
LISTED_PROBLEMS = 3
"""Of labels, at the end of the command; summary.json has all."""
"""Image sizes in summary.json; tables/sizes.parquet has all of them."""


def run_eda(config: EdaConfig) -> dict[str, Any]:
    """Summarize a source into OUTPUT, or resume an earlier run of the same command.

    Returns:
        The main entries of summary.json, and the addresses of it and the report.

    Raises:
        ConfigError: OUTPUT holds another run.
        InputError: the source has no image.
        ResourceError: storage or cluster failed; finished units are kept.
    """
    config = config.model_copy(update={"output": files.absolute(config.output)})
    if read_record(config.output, "eda") is None:
        check_inputs(config.input)
    searches = labelled_face_searches(config)
    identity = (
        config.identity(OUTPUT, LABELS, REPORT)
        | search_identity(searches.search)
        | {"contract_version": CONTRACT_VERSION}
    )
    placement = Placement(config.cluster(), config.opened_by_workers())
    placement.check()
    earlier = claim_output(config.output, "eda", config, identity)
    if earlier is not None and earlier["state"] == DONE:
        logger.info("%s: this run is finished; nothing was done", config.output)
        return dict(earlier["result"])
    with failure_recorded(config.output, "eda"):
        try:
            listing = drain(config, OutputLayout(config.output).listing)
        except InputError:
            discard_run(config.output, "eda")
            raise
        with ray_session(config.address, config.num_cpus), own_errors():
            statistics, duplicates = _explore(config, searches, listing, placement)
        summary = summarize(statistics, duplicates, listing)
        _write(config, statistics, summary)
        result = _result(config, summary)
        finish_record(config.output, "eda", config, identity, result)
    return result


def _result(config: EdaConfig, summary: dict[str, Any]) -> dict[str, Any]:
    short = ["images", "labelled", "repeated", "ignored_files", "by_status", "images_with_warning", "by_gender"]
    short += ["by_age_group", "most_frequent_age_group"] if summary["age_labels"]["exact"] else []
    short += ["by_age_range"] if summary["age_labels"]["range"] else []
    problems = {"label_problems": dict(list(summary["label_problems"].items())[:LISTED_PROBLEMS])}
    duplicates = {f"{kind}_duplicate_groups": counts["groups"] for kind, counts in summary["duplicates"].items()}
    layout = OutputLayout(config.output)
    return (
        {key: summary[key] for key in short}
        | problems
        | duplicates
        | {"summary": layout.path("summary.json"), "report": layout.report}
    )


def _explore(
    config: EdaConfig, searches: FaceSearches, listing: Listing, placement: Placement
) -> tuple[SetStatistics, dict[str, dict[str, int]]]:
    layout = OutputLayout(config.output)
    samples = SampleSet(config.seed) if config.images else SampleSet(config.seed, overall=0, per_group=0)
    found = gather_facts(
        listing,
        config,
        layout.facts,
        summary_uri=layout.work("summaries"),
        samples=samples,
        searches=searches,
        placement=placement.options(),
    )
    return found.statistics, write_lists(found.uris, layout.path("tables"), config.near_duplicate_bits)


def summarize(statistics: SetStatistics, duplicates: dict[str, dict[str, int]], listing: Listing) -> dict[str, Any]:
    """The content of summary.json; docs/eda.md explains every key."""
    heaping = age_heaping(statistics.by_age())
    sizes = ranked(statistics.sizes)[:LISTED_SIZES]
    return {
        "images": statistics.images,
        "labelled": statistics.labelled,
        "repeated": listing.repeated,
        "ignored_files": listing.ignored,
        "by_status": statistics.by_status(),
        "images_with_warning": statistics.images_with_warning,
        "by_gender": statistics.by_gender(),
        "by_age_group": statistics.by_age_group(),
        "most_frequent_age_group": statistics.most_frequent_age_group(),
        "age_labels": statistics.age_labels(),
        "by_age": {str(age): count for age, count in statistics.by_age().items()},
        "by_age_range": {age_text(*ends): count for ends, count in statistics.by_age_range().items()},
        "by_gender_and_age_group": statistics.by_gender_and_age_group(),
        "by_race": statistics.by_race(),
        "label_problems": dict(ranked(statistics.problems)),
        "age_heaping": {
            "index_5": heaping.index_5,
            "index_10": heaping.index_10,
            "standing_out": {str(age): times for age, times in heaping.standing_out.items()},
        },
        "duplicates": duplicates,
        "size_bytes": statistics.size_bytes,
        "by_format": dict(ranked(statistics.formats)),
        "by_size": {f"{width}x{height}": count for (width, height), count in sizes},
        "distinct_sizes": len(statistics.sizes),
        "channel_mean": statistics.channel_mean(),
        "channel_std": statistics.channel_std(),
    }


def _write(config: EdaConfig, statistics: SetStatistics, summary: dict[str, Any]) -> None:
    layout = OutputLayout(config.output)
    for name, table in _small_tables(statistics).items():
        tables.write_table(layout.path("tables", f"{name}.parquet"), table)
    page, figures = eda_page(
        summary,
        source=config.input,
        examples=statistics.examples,
        samples={
            key: [
                (sample.uri, sample.age_low_years, sample.age_high_years, sample.gender, sample.jpeg)
                for sample in drawn
            ]
            for key, drawn in statistics.samples.by_key.items()
        },
        age_ranges=statistics.by_age_range(),
        seed=config.seed,
        near_duplicate_bits=config.near_duplicate_bits,
        version=__version__,
    )
    for name, png in figures.items():
        files.write_bytes(layout.path("figures", f"{name}.png"), png)
    files.write_bytes(layout.report, page.encode())
    files.write_json(layout.path("summary.json"), summary)


def _small_tables(statistics: SetStatistics) -> dict[str, pa.Table]:
    by_age, by_group = statistics.by_age(), statistics.by_age_group()
    crossed = [
        {"age_group": group, "gender": gender, "images": counts[gender]}
        for group, counts in statistics.by_gender_and_age_group().items()
        for gender in GENDERS
    ]
    ranges = [
        {"age_low_years": low, "age_high_years": high, "images": count}
        for (low, high), count in statistics.by_age_range().items()
    ]
    sizes = ranked(statistics.sizes)
    return {
        "ages": pa.table(
            {"age_years": list(by_age), "images": list(by_age.values())}, schema=_counts("age_years", pa.int16())
        ),
        "age_groups": pa.table(
            {"age_group": list(by_group), "images": list(by_group.values())}, schema=_counts("age_group", pa.string())
        ),
        "age_ranges": pa.Table.from_pylist(ranges, schema=_AGE_RANGES),
        "gender_by_age_group": pa.Table.from_pylist(crossed),
        "sizes": pa.table(
            {
                "width": pa.array([width for (width, _), _ in sizes], pa.int32()),
                "height": pa.array([height for (_, height), _ in sizes], pa.int32()),
                "images": pa.array([count for _, count in sizes], pa.int64()),
            }
        ),
    }


def _counts(name: str, kind: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind), pa.field("images", pa.int64())])
