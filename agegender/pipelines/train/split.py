"""The first step of a training run, done once: assign images to parts and write OUTPUT/split.parquet."""

import logging
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from agegender.data.cache import GIGABYTE, cache_size_bytes
from agegender.data.face_searches import FaceSearches
from agegender.data.fingerprints import group_ids_of_facts
from agegender.data.splits import split_hash, split_table
from agegender.errors import ConfigError, InputError
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.pipelines.source.image_facts import gather_facts, read_facts
from agegender.pipelines.source.listing import Listing
from agegender.pipelines.source.streaming_listing import drain
from agegender.schema import SOURCE, SPLIT_PARTS
from agegender.storage import files, tables
from agegender.training_config import TrainConfig

logger = logging.getLogger(__name__)

MIN_PART_IMAGES = {"train": 8, "val": 4}
"""Fewer images are a mistake in --input or in the fractions."""


@dataclass(frozen=True)
class SplitImages:
    """A listed source and its split."""

    units: list[str]
    listed: int
    ignored: dict[str, int]
    hash: str
    table: pa.Table
    """Rows of ``schema.SPLIT``."""

    @property
    def parts(self) -> dict[str, int]:
        """Images of each part."""
        counts = Counter(self.table["part"].to_pylist())
        return {part: counts[part] for part in SPLIT_PARTS}


def split_images(config: TrainConfig, searches: FaceSearches) -> SplitImages:
    """List the sources, read each image's facts, keep duplicates in one part and write the split; or read an existing one.

    Raises:
        InputError: no image, none with a label, or too few for a part.
        ConfigError: the decoded images would exceed ``cache_limit_gb``.
    """
    layout = OutputLayout(config.output)
    listing = drain(config, layout.listing)
    if not files.exists(layout.split):
        split = _split(config, searches, listing, layout.work("facts"))
        tables.write_table(layout.split, split)
    split = with_source(tables.read_table(layout.split), config)
    _check_size(config, split)
    images = SplitImages(listing.units, listing.images, listing.ignored, split_hash(split), split)
    logger.info("split %s: %s", images.hash[:12], ", ".join(f"{count} {part}" for part, count in images.parts.items()))
    return images


def _split(config: TrainConfig, searches: FaceSearches, listing: Listing, facts_uri: str) -> pa.Table:
    facts = read_facts(gather_facts(listing, config, facts_uri, searches=searches, command="train").uris)
    _log_statuses(facts)
    split = split_table(
        facts,
        group_ids_of_facts(facts, config.near_duplicate_bits),
        config.val_fraction,
        config.test_fraction,
        config.seed,
    )
    _check_parts(config, facts, split)
    return split


def with_source(split: pa.Table, config: TrainConfig) -> pa.Table:
    """A split with its sources; one that an earlier release wrote has none, and the first of the config stands for all."""
    if SOURCE.name in split.column_names and not split[SOURCE.name].null_count:
        return split
    first = pa.repeat(config.sources()[0].name, split.num_rows)
    return split.select([name for name in split.column_names if name != SOURCE.name]).append_column(SOURCE, first)


def _log_statuses(facts: pa.Table) -> None:
    """Say of each source how many images have which status, where there are several."""
    by_source: dict[str, Counter[str]] = {}
    for source, status in zip(facts[SOURCE.name].to_pylist(), facts["status"].to_pylist(), strict=True):
        by_source.setdefault(source, Counter())[status] += 1
    for source, statuses in by_source.items() if len(by_source) > 1 else ():
        logger.info("%s: %d images (%s)", source, statuses.total(), _counts(statuses))


def _check_parts(config: TrainConfig, facts: pa.Table, split: pa.Table) -> None:
    where = ", ".join(config.input)
    if not split.num_rows:
        statuses = Counter(facts["status"].to_pylist())
        problems = Counter(problem for problem in facts["label_problem"].to_pylist() if problem)
        raise InputError(
            f"no labelled image in {where}: {facts.num_rows} images ({_counts(statuses)}), labels {', '.join(config.labels)!r}: "
            f"{_counts(problems) or 'labels were not read'}. See the help of --labels, --age-column and --gender-column"
        )
    parts = Counter(split["part"].to_pylist())
    small = [part for part, least in MIN_PART_IMAGES.items() if parts[part] < least]
    if small or (config.test_fraction > 0 and not parts["test"]):
        groups = len(set(split["group"].to_pylist()))
        raise InputError(
            f"too few labelled images in {where}: {split.num_rows} of {facts.num_rows}, in {groups} groups of duplicates, give "
            f"{_counts({part: parts[part] for part in SPLIT_PARTS})}; at least {_counts(MIN_PART_IMAGES)} are required, and a test "
            "image unless --test-fraction is 0. Add images or change --val-fraction and --test-fraction"
        )


def _check_size(config: TrainConfig, split: pa.Table) -> None:
    images = sum(part != "test" for part in split["part"].to_pylist())
    size_gb = cache_size_bytes(images, config.image_size_px) / GIGABYTE
    if size_gb > config.cache_limit_gb:
        raise ConfigError(
            f"{images} decoded images of {config.image_size_px} px take {size_gb:.2f} GB on each node, more than --cache-limit-gb "
            f"{config.cache_limit_gb}: raise it if the disk of --cache-dir has the space, or lower --image-size-px"
        )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
