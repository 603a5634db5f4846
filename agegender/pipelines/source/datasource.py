"""SOURCE as a Ray Dataset: ``read`` for anyone's pipeline, ``read_units`` for jobs, which write their listing down first.

    read:        [list] -> blocks of listing rows -> [fetch] in parallel -> blocks of rows with the bytes of their images
    read_units:  units of a listing, a read task each: [fetch] -> the job's functions, in the same task

A listing is a stream that nobody knows the length of, so it is one task, in which each uri is met once; its blocks are cut
small, so that many tasks fetch what it lists while it goes on. The driver holds no list of images in either case.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from pydantic import ValidationError
from ray.data import DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.util.annotations import RayDeprecationWarning

from agegender.errors import ConfigError, InputError
from agegender.option_groups import ClusterOptions, ImageLimits, SourceOptions
from agegender.pipelines.runtime.placement import Placement
from agegender.pipelines.runtime.session import ensure_ray
from agegender.pipelines.source.fetch import BLOCK_BYTES, BYTES_FIELDS, fetch_blocks, read_unit
from agegender.pipelines.source.listing import SourceCounts, list_source, nothing_found
from agegender.storage import files

LISTING_CPUS = 0.1
FETCH_CPUS = 0.5
"""Both wait for storage most of the time, and must find room beside actors that reserve nearly all CPUs. They differ so that
Ray does not fuse them: one task would then list and fetch everything."""

LISTING_BLOCKS = 64
"""Into so many blocks each ``BLOCK_BYTES`` of listing, about 100,000 rows, are cut, so that many tasks fetch; small ones are
taken together again up to ``unit_images``. Measured with 18,962 images on two cores, listed, fetched and decoded: 1 block
24.5 s, 64 blocks 17.2 s, 256 blocks 25.3 s (once each, on a machine with other work)."""

UNIT_FIELDS = (
    pa.field("unit", pa.string(), nullable=False),  # address of the unit's listing
    pa.field("row", pa.int64(), nullable=False),  # of the image, in the listing of its unit
    pa.field("unit_rows", pa.int64(), nullable=False),  # rows of that listing
)
"""Columns that ``read_units`` puts before those of the listing."""

Rows = tuple[int, int]
"""First row, and the row after the last."""

Step = tuple[Callable[..., pa.Table], dict[str, Any]]
"""A function from an Arrow table to another, and its keywords."""


def read(
    source: str | Sequence[str], *, keep_columns: Sequence[str] = (), shared_storage: bool = False, **options: Any
) -> Dataset:
    """Read the images of a source into a Ray Dataset, whatever the source is and however large.

    A row per image, in Arrow blocks of at most about 32 MB: the columns of ``schema.LISTING`` (``uri``, where the bytes lie,
    and the label: ``age_years``, ``age_low_years``, ``age_high_years``, ``gender``, ``race``, ``label_problem``), the kept
    columns, then ``bytes``, ``status`` and ``error``. An image that is missing, empty or too large is a row whose status
    says so and whose bytes are null; whether the bytes are an image is for the decoder to say. A uri that the source repeats
    is listed once. Rows come in no particular order unless Ray Data is told to keep it.

    Nothing is read before the dataset is consumed, but for the first image's entry, so that a wrong address is an error here.
    Where no Ray runs, one is started.

    Args:
        source: a folder of images, a manifest (.csv, .tsv, .jsonl, .parquet), Parquet with the bytes of the images, tar shards, local
            or s3://; or several of them.
        keep_columns: columns of the manifest to carry along.
        shared_storage: on a cluster of several nodes, that every node sees the local paths of the source.
        options: fields of ``SourceOptions``: ``labels``, ``uri_column``, ``age_column``, ``gender_column``,
            ``gender_codes``, ``race_column``, ``bytes_column``, ``max_image_bytes``, ``unit_images`` (images that one task fetches).

    Raises:
        ConfigError: an unknown option; a local source on a cluster of several nodes; a kept column that has the name of
            another column.
        InputError: nothing there, no image, or a manifest without the columns that were asked for.
        ResourceError: storage does not answer. While the dataset is consumed, too: an outage never becomes a row.

    Example:
        >>> images = agegender.read("s3://bucket/photos")
        >>> images.filter(expr=ray.data.expressions.col("status") != "ok").select_columns(["uri", "status", "error"]).show()
    """
    given = _options(source, options)
    given = given.model_copy(update={"input": [files.absolute(address) for address in given.input]})
    ensure_ray()
    where = _placement(given.input, shared_storage)
    _check_columns(_first_image(given, keep_columns).schema)
    listed = _dataset(SourceDatasource(given, keep_columns), LISTING_BLOCKS, num_cpus=LISTING_CPUS, **where)
    listed.context.raise_original_map_exception = True  # so that an outage comes out as the ResourceError that it is
    with _without_deprecations():
        return listed.map_batches(
            _fetch,
            fn_kwargs={"limits": given.limits()},
            batch_format="pyarrow",
            batch_size=given.unit_images,
            zero_copy_batch=True,
            num_cpus=FETCH_CPUS,
            **where,
        )


def read_units(
    units: Mapping[str, Sequence[Rows]],
    limits: ImageLimits,
    steps: Sequence[Step],
    *,
    num_cpus: float,
    max_retries: int,
    placement: dict[str, Any] | None = None,
) -> Dataset:
    """Read the images of units and hand their blocks through functions, all in one task per unit.

    Images go from one function to the next within the process, never through Ray's object store. Where a function gives
    much less than a block, as a table of facts is, the next gets what it gave for all rows of the unit at once.

    Args:
        units: address of the listing of each unit -> rows that are not to be read, ascending.
        limits: how bytes are read.
        steps: functions, each with its keywords; they take and give an Arrow table. The first takes ``UNIT_FIELDS``, the
            listing and ``fetch.BYTES_FIELDS``, in blocks of at most about 32 MB.
        num_cpus: of each task.
        max_retries: of a unit whose process died; Ray Data's default, forever, is no end for a file that kills its process.
        placement: Ray's options of where the tasks may run; None: anywhere.
    """
    arguments = {"num_cpus": num_cpus, "max_retries": max_retries, **(placement or {})}
    found = _dataset(UnitsDatasource(units, limits), max(1, len(units)), **arguments)
    with _without_deprecations():
        for function, keywords in steps:
            found = found.map_batches(
                function,
                fn_kwargs=keywords,
                batch_format="pyarrow",
                batch_size=None,
                zero_copy_batch=True,
                **arguments,
            )
    return found


def unit_dataset(units: Sequence[str]) -> Dataset:
    """A dataset with one row ``{"unit": address}`` and one block per unit, for ``map_batches(..., batch_size=1)``."""
    return ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=max(1, len(units)))


class SourceDatasource(Datasource):  # type: ignore[misc]  # Ray has no types
    """The listing of a source: one read task, which streams it.

    Args:
        options: the source.
        keep_columns: manifest columns that follow the columns of ``schema.LISTING``.
    """

    def __init__(self, options: SourceOptions, keep_columns: Sequence[str] = ()) -> None:
        super().__init__()
        self._options, self._keep_columns = options, tuple(keep_columns)

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known before it was listed."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  (Ray hands it over)
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """One, whatever parallelism is asked for: a uri that two inputs have is listed once."""
        task = partial(list_source, self._options, self._keep_columns)
        return [ReadTask(task, _unknown(), per_task_row_limit=per_task_row_limit)]


class UnitsDatasource(Datasource):  # type: ignore[misc]  # Ray has no types
    """The images of the units of a listing that was written down: a read task for each unit.

    Args:
        units: address of the listing of each unit -> rows that are not to be read, ascending.
        limits: how bytes are read.
    """

    def __init__(self, units: Mapping[str, Sequence[Rows]], limits: ImageLimits) -> None:
        super().__init__()
        self._units, self._limits = units, limits

    def estimate_inmemory_data_size(self) -> int | None:
        """Not known before the files were read."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002  (Ray hands it over)
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        """One for each unit, whatever parallelism is asked for."""
        tasks = (partial(unit_blocks, unit, self._limits, tuple(skipped)) for unit, skipped in self._units.items())
        return [ReadTask(task, _unknown(), per_task_row_limit=per_task_row_limit) for task in tasks]


def unit_blocks(unit: str, limits: ImageLimits, skipped: Sequence[Rows] = ()) -> Iterator[pa.Table]:
    """The images of a unit, in tables that are bounded by bytes.

    Args:
        unit: address of its listing.
        limits: how bytes are read.
        skipped: rows that are left out, ascending.

    Yields:
        ``UNIT_FIELDS``, the columns of the listing, ``fetch.BYTES_FIELDS``.
    """
    listed = read_unit(unit)
    rows = listed.num_rows
    values = ([unit] * rows, range(rows), [rows] * rows)
    for index, (field, column) in enumerate(zip(UNIT_FIELDS, values, strict=True)):
        listed = listed.add_column(index, field, pa.array(column, field.type))
    for first, end in _others(skipped, rows):
        yield from fetch_blocks(listed.slice(first, end - first), limits)


def _others(skipped: Iterable[Rows], rows: int) -> Iterator[Rows]:
    """The rows between those that are skipped."""
    start = 0
    for first, end in [*skipped, (rows, rows)]:
        if first > start:
            yield start, first
        start = max(start, end)


def _fetch(listed: pa.Table, limits: ImageLimits) -> Iterator[pa.Table]:
    yield from fetch_blocks(listed, limits)


def _options(source: str | Sequence[str], options: dict[str, Any]) -> SourceOptions:
    try:
        return SourceOptions(input=[source] if isinstance(source, str) else list(source), **options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        known = ", ".join(name for name in SourceOptions.model_fields if name != "input")
        raise ConfigError(f"read: {place}: {first['msg']}. Its options are {known}") from error


def _first_image(options: SourceOptions, keep_columns: Sequence[str]) -> pa.Table:
    counts = SourceCounts()
    first = next(list_source(options, keep_columns, counts, limit=1), None)
    if first is None:
        raise InputError(nothing_found(options, counts))
    return first


def _check_columns(listed: pa.Schema) -> None:
    names = [*listed.names, *(field.name for field in BYTES_FIELDS)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"keep_columns: {', '.join(repeated)}: read has a column of this name. Rename it in the manifest"
        )


def _placement(addresses: Sequence[str], shared_storage: bool) -> dict[str, Any]:
    """Where tasks may run that open a source: a local path is another disk on every node."""
    cluster = ClusterOptions(
        address="auto", shared_storage=shared_storage
    )  # the Ray that is running, whichever that is
    placement = Placement(cluster, {"input": addresses})
    placement.check()
    return placement.options()


def _dataset(datasource: Datasource, blocks: int, num_cpus: float, **more: Any) -> Dataset:
    with _without_deprecations():
        found = ray.data.read_datasource(
            datasource, override_num_blocks=blocks, num_cpus=num_cpus, ray_remote_args=more
        )
    found.context.target_max_block_size = BLOCK_BYTES
    return found


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """The only ways in Ray 2.60 to bound retries and to name a node are announced to go in 2.64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)
        yield


def _unknown() -> BlockMetadata:
    return BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
