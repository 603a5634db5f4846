"""A source of the Python API -> addresses that the jobs read.

Addresses pass unchanged. A source in memory is written to ``OUTPUT/_input`` as one Parquet file that is named by a hash of
its content: the same data is the same source, so that the same call can resume an interrupted run.
"""

import hashlib
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from agegender.errors import ConfigError, InputError
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.columns import bytes_column, columns_of
from agegender.schema import IMAGE_EXTENSIONS, LISTING, prediction_schema
from agegender.storage import files

if TYPE_CHECKING:
    import pandas as pd

    Address: TypeAlias = str | os.PathLike[str]
    InMemoryImage: TypeAlias = bytes | npt.NDArray[np.uint8] | Image.Image
    Source: TypeAlias = Address | InMemoryImage | Iterable[Address] | Iterable[InMemoryImage] | pa.Table | pd.DataFrame

ROWS_IN_GROUP = 64
"""Images in one row group, the smallest unit of reading."""

ALLOWED = (
    "an address, a list of addresses, an image (bytes, uint8[H, W, 3] array or PIL image), a list of images, or a table "
    "(pyarrow or pandas) with a column of bytes or of uris"
)

_PNG_MODES = frozenset({"1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"})
_TIFF_MODES = frozenset({"F", "LAB"})
"""Modes without a standard conversion to RGB; kept, so that the decoder gives the row its status."""


@dataclass(frozen=True)
class PreparedSource:
    """A source that the jobs can read."""

    addresses: list[str]

    written: str | None = None
    """The file that was written; None if it already existed, or none was needed."""

    columns: tuple[str, ...] = ()
    """Columns of a table except addresses and bytes, by their new names."""

    renamed: Mapping[str, str] = field(default_factory=dict)
    """Columns of a table that had the name of a result column -> new name."""

    names_its_images: bool = True
    """False if images have no file names, which could contain labels."""


def prepare_source(
    source: "Source",
    output: str,
    *,
    uri_column: str | None = None,
    bytes_column: str | None = None,
    rename: bool = False,
) -> PreparedSource:
    """Make a source readable for the jobs.

    Args:
        source: one or several addresses; or a source in memory: encoded images as bytes, uint8[H, W, 3] RGB arrays, a
            uint8[N, H, W, 3] array, PIL images, a list of those; or a table, of pyarrow, pandas or anything that exports
            Arrow's C stream, with a column of bytes or of addresses.
        output: OUTPUT of the run, local or ``s3://``.
        uri_column: column of a table with addresses, or with names if it has a column of bytes; None: found by its name.
        bytes_column: column of a table with image files; None: found by its name and type.
        rename: rename columns of a table that have the name of a result column to ``source_NAME``.

    Raises:
        ConfigError: unsupported type.
        InputError: unusable value: an array of another shape or type, a table without either column, no image.
        ResourceError: OUTPUT cannot be written.
    """
    if isinstance(source, str | os.PathLike):
        return PreparedSource([os.fspath(source)])
    table = _as_table(source)
    if table is not None:
        return _prepare_table(table, output, uri_column, bytes_column, rename)
    items = _items(source)
    first = next(items, None)
    if first is None:
        raise InputError("the source is an empty list: there is no image in it")
    items = itertools.chain([first], items)
    if isinstance(first, str | os.PathLike):
        return _prepare_addresses(items, output, uri_column or "uri")
    uri, is_new = _write(_image_batches(items, uri_column or "uri", bytes_column or "bytes"), output)
    return PreparedSource([uri], uri if is_new else None, names_its_images=False)


def _items(source: Any) -> Iterator[Any]:  # Any: the caller's value, not yet validated
    if isinstance(source, bytes | bytearray | memoryview | Image.Image):
        return iter([source])
    if isinstance(source, np.ndarray):
        if source.dtype.kind in "UO":
            return iter(source.tolist())
        return iter(source if source.ndim == 4 else [source])
    if isinstance(source, Iterable) and not isinstance(source, Mapping):
        return iter(source)
    raise ConfigError(f"a source cannot be {type(source).__name__}. Give {ALLOWED}")


def _prepare_addresses(items: Iterable[Any], output: str, uri_column: str) -> PreparedSource:
    addresses = []
    for position, item in enumerate(items):
        if not isinstance(item, str | os.PathLike):
            raise ConfigError(f"item {position} of the source is {type(item).__name__} among addresses. Give either")
        addresses.append(os.fspath(item))
    if not all(Path(address).suffix.lower() in IMAGE_EXTENSIONS for address in addresses):
        return PreparedSource(addresses)
    # As a manifest, a missing file becomes a row with a status, and the record of the run stays short.
    table = pa.table({uri_column: pa.array([files.absolute(address) for address in addresses], pa.string())})
    uri, is_new = _write(table.to_batches(), output)
    return PreparedSource([uri], uri if is_new else None)


def _as_table(source: Any) -> pa.Table | None:
    if isinstance(source, pa.Table):
        return source
    try:
        # Do not import pandas: a caller with a DataFrame has already imported it.
        if (pandas := sys.modules.get("pandas")) is not None and isinstance(source, pandas.DataFrame):
            return pa.Table.from_pandas(source, preserve_index=False)
        if hasattr(source, "__arrow_c_stream__"):
            return _without_views(pa.table(source))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"the {type(source).__name__} does not convert to an Arrow table: {error}") from error
    return None


def _without_views(table: pa.Table) -> pa.Table:
    """Convert string and binary views, which Polars exports and Parquet does not support."""
    plain = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
    return table.cast(pa.schema([field.with_type(plain.get(field.type, field.type)) for field in table.schema]))


def _prepare_table(
    table: pa.Table, output: str, uri_option: str | None, bytes_option: str | None, rename: bool
) -> PreparedSource:
    names = table.column_names
    if len(set(names)) < len(names):
        duplicates = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"the table has several columns named {', '.join(duplicates)}. Rename them")
    if not table.num_rows:
        raise InputError("the table has no rows: there is no image in it")
    uri_column, bytes_column = _columns_of(table.schema, uri_option, bytes_option)
    renamed = {}
    if rename:
        reserved = {*prediction_schema(age_distribution=True).names, *LISTING.names}
        conflicting = reserved - {uri_column, bytes_column}
        renamed = {name: _free_name(name, names) for name in names if name in conflicting}
        table = table.rename_columns([renamed.get(name, name) for name in names])
    if bytes_column is not None:
        table = _with_names(table, uri_column)
    else:
        addresses = table.column(uri_column).to_pylist()
        absolute = [None if address is None else files.absolute(str(address)) for address in addresses]
        table = table.set_column(names.index(uri_column), uri_column, pa.array(absolute, pa.string()))
    columns = tuple(name for name in table.column_names if name not in (uri_column, bytes_column))
    try:
        uri, is_new = _write(table.to_batches(max_chunksize=ROWS_IN_GROUP), output)
    except (pa.ArrowException, TypeError) as error:
        raise InputError(f"the table cannot be written as Parquet: {error}") from error
    return PreparedSource([uri], uri if is_new else None, columns, renamed)


def _columns_of(schema: pa.Schema, uri_option: str | None, bytes_option: str | None) -> tuple[str, str | None]:
    """The columns of addresses, or of names, and of image files."""
    found = bytes_column("the table", schema, bytes_option)
    if found is not None:
        return uri_option or "uri", found.name
    options = SourceOptions(input=["-"], labels="none", uri_column=uri_option)
    pattern = columns_of("the table", schema, options, ()).uri
    if pattern[::2] != ("", ""):
        raise InputError(
            f"uri_column {uri_option!r} is a pattern, which is for files. Put the addresses into one column"
        )
    return pattern[1], None


def _with_names(table: pa.Table, uri_column: str) -> pa.Table:
    if uri_column in table.column_names:
        return table
    return table.append_column(uri_column, pa.array([_name(row) for row in range(table.num_rows)], pa.string()))


def _free_name(name: str, taken: Sequence[str]) -> str:
    name = f"source_{name}"
    while name in taken:
        name += "_"
    return name


def _name(number: int) -> str:
    return f"image-{number:06d}"


def _image_batches(items: Iterable[Any], uri_column: str, bytes_column: str) -> Iterator[pa.RecordBatch]:
    schema = pa.schema([(uri_column, pa.string()), (bytes_column, pa.large_binary())])
    numbered = enumerate(items)
    while chunk := list(itertools.islice(numbered, ROWS_IN_GROUP)):
        columns = [[_name(number) for number, _ in chunk], [_encoded(item, number) for number, item in chunk]]
        yield pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _encoded(item: Any, number: int) -> bytes:
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or not item.size:
            raise InputError(
                f"image {number} is an array of {item.dtype}{list(item.shape)}; it must be uint8[H, W, 3], RGB, 0-255"
            )
        return _saved(Image.fromarray(np.ascontiguousarray(item)), "PNG")
    if isinstance(item, Image.Image):
        try:
            return _encoded_pil(item)
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"image {number} is a PIL image that does not load: {error}. Give its bytes") from error
    if isinstance(item, str | os.PathLike):
        raise ConfigError(f"item {number} of the source is an address among images in memory. Give either")
    raise ConfigError(f"item {number} of the source is {type(item).__name__}. Give {ALLOWED}")


def _encoded_pil(image: Image.Image) -> bytes:
    """Encode losslessly, upright by the EXIF orientation."""
    if image.mode in _TIFF_MODES:
        return _saved(image, "TIFF")
    upright = ImageOps.exif_transpose(image)
    return _saved(upright if upright.mode in _PNG_MODES else upright.convert("RGB"), "PNG")


def _saved(image: Image.Image, kind: str) -> bytes:
    target = BytesIO()
    fast = {"compress_level": 1, "exif": b""} if kind == "PNG" else {}
    image.save(target, kind, **fast)
    return target.getvalue()


def _write(batches: Iterable[pa.RecordBatch], output: str) -> tuple[str, bool]:
    """Write batches, a row group each, to a content-addressed file; returns its address, and whether it is new."""
    with tempfile.TemporaryDirectory(prefix="agegender-") as folder:
        path = Path(folder) / "input.parquet"
        writer = None
        try:
            for batch in batches:
                writer = writer or pq.ParquetWriter(path, batch.schema, compression="zstd")
                writer.write_batch(batch)
        finally:
            if writer is not None:
                writer.close()
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()[:16]
        uri = files.join(files.absolute(output), "_input", f"{digest}.parquet")
        if files.stat(uri) is not None:
            return uri, False
        with path.open("rb") as stream:
            files.write_from(stream, uri)
        return uri, True
