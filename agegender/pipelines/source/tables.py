"""The images that tables name or hold: manifests (CSV, JSON lines, Parquet) and Parquet with the bytes of images. No Ray."""

import codecs
import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, Protocol, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agegender.data import labels
from agegender.data.boxes import GivenBox, UnnamedBoxError, are_shares, box_of, read_boxes
from agegender.errors import InputError, ResourceError
from agegender.option_groups import SourceOptions
from agegender.pipelines.source.boxes import beside_kept, by_image
from agegender.pipelines.source.columns import BoxColumns, Columns, bytes_column, columns_of, known_names, own_kind
from agegender.pipelines.source.listed_image import ListedImage, label_of_name, labelled
from agegender.pipelines.source.seen_uris import SeenUris
from agegender.storage import files
from agegender.storage.addresses import is_text, member_uri

DELIMITED = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = ".parquet"
NOT_READ = (
    ".json", ".xlsx", ".xls", ".ods", ".feather", ".arrow", ".ipc", ".orc", ".avro", ".pkl", ".pickle", ".npy", ".npz",
    ".mat", ".h5", ".hdf5", ".tfrecord", ".lmdb", ".mdb", ".db", ".sqlite", ".rec", ".xml", ".yaml", ".yml", ".html",
    *(f"{kind}{packed}" for kind in (*DELIMITED, *JSON_LINES) for packed in (".zip", ".bz2", ".xz", ".zst", ".7z")),
)  # fmt: skip
"""Extensions of tables and data sets that are no images and are not read."""

BATCH_ROWS = 1000
MAX_LINE_CHARACTERS = 16 * 1024 * 1024
JSON_LINES_FOR_NAMES = 100
"""The names of the columns of JSON lines are those of the first so many lines."""

DELIMITERS = ",;\t"

Batch = dict[str, Sequence[Any]]
"""Column -> values."""


def is_table(uri: str) -> bool:
    """Whether a file that was named as an input is a table, read or not, by its name; ``images`` says what is not read."""
    return _kind(uri) is not None


def kind_of_parquet(uri: str, options: SourceOptions) -> Literal["images", "own", "other", "damaged"]:
    """What a Parquet file in a folder is, from its footer.

    Returns:
        images: it holds the bytes of images; own: one of our jobs wrote it; other: any other table; damaged: it is not
        Parquet, or cannot be read.

    Raises:
        ResourceError: storage does not answer.
    """
    try:
        with files.open_for_reading(uri) as stream:
            schema = pq.ParquetFile(stream).schema_arrow
    except (pa.ArrowInvalid, OSError, files.ObjectAnswer):
        return "damaged"
    if own_kind(schema) is not None:
        return "own"
    try:
        return "other" if bytes_column(uri, schema, options.bytes_column) is None else "images"
    except InputError:
        return "other"


class TableReader:
    """Lists the rows of tables.

    Args:
        options: the source.
        keep_columns: columns to keep.
    """

    def __init__(self, options: SourceOptions, keep_columns: tuple[str, ...]) -> None:
        self.options, self.keep_columns = options, keep_columns
        self.keep_fields: list[pa.Field] = []
        """Fields of the kept columns; known from the first table on."""

    def images(self, found: files.FileInfo) -> Iterator[ListedImage]:
        """The images of one table, in its order.

        Raises:
            InputError: the format is not read, the table is damaged, or a column is missing or of another type.
            ResourceError: storage does not answer.
        """
        kind = _kind(found.uri)
        if kind not in (PARQUET, "delimited", "json lines"):
            raise InputError(
                f"{found.uri}: {kind} is not read. Save it as CSV (UTF-8) or Parquet, with a column of the images' addresses"
            )
        with files.open_for_reading(found.uri) as stream, _damage(found.uri, kind):
            table: _Table
            if kind == PARQUET:
                table = _Parquet(stream)
            elif kind == "delimited":
                table = _Delimited(found.uri, stream, known_names(self.options, self.keep_columns))
            else:
                table = _JsonLines(found.uri, stream)
            columns = columns_of(
                found.uri, table.schema, self.options, self.keep_columns, text=not isinstance(table, _Parquet)
            )
            self.keep(found.uri, table.schema)
            rows = self._rows(found, table, columns)
            yield from rows if columns.boxes is None or columns.bytes is not None else by_image(rows)

    def keep(self, uri: str, schema: pa.Schema) -> None:
        """Note the types of the kept columns, which all tables and archives of a source share.

        Raises:
            InputError: another type than in an earlier one.
        """
        fields = [schema.field(name) for name in self.keep_columns]
        for first, here in zip(self.keep_fields, fields, strict=False):
            if first.type != here.type:
                raise InputError(
                    f"{uri}: the kept column {here.name!r} is of type {here.type}, and of type {first.type} in an earlier "
                    "table or archive. Convert one of them"
                )
        self.keep_fields = self.keep_fields or fields

    def _rows(self, found: files.FileInfo, table: "_Table", columns: Columns) -> Iterator[ListedImage]:
        base = files.parent(found.uri)
        of_bytes = columns.bytes is not None
        has_labels = bool({"age", "gender"} & columns.labels.keys())
        where: dict[str, Any] = {"container": found.uri, "etag": found.etag} if of_bytes else {}
        row = 0
        with SeenUris() as names:
            for length, batch in table.batches(columns.needed):
                values = (_label_values(batch, columns, role, length) for role in ("age", "gender", "race"))
                kept: Iterable[tuple[Any, ...]] = (
                    zip(*(table.kept(batch[name]) for name in columns.keep), strict=True)
                    if columns.keep
                    else [()] * length
                )
                if columns.boxes is not None:
                    boxes = _box_values(found.uri, batch, columns.boxes, first=row == 0)
                    kept = map(beside_kept, boxes, kept)
                for address, age, gender, race, keep in zip(
                    _addresses(batch, columns, length), *values, kept, strict=True
                ):
                    if not of_bytes and address:
                        uri = path = files.resolve(address, base)
                    elif columns.name is None and address and is_text(address) and names.add(address) is True:
                        uri = path = address
                    else:
                        uri = member_uri(found.uri, _name_in_table(address if columns.name else None, row, names))
                        path = address if address and is_text(address) else str(row)
                    if has_labels:
                        label = labels.from_values(age, gender, race, self.options.gender_codes)
                    else:
                        label = label_of_name(self.options, path)
                    if of_bytes:
                        where["offset"] = row
                    yield labelled(uri, label, kept=keep, **where)
                    row += 1


class _Table(Protocol):
    """A table that is open for reading."""

    schema: pa.Schema

    def batches(self, columns: list[str]) -> Iterator[tuple[int, Batch]]:
        """Yield rows: how many, and their values in these columns."""
        ...

    def kept(self, values: Sequence[Any]) -> Sequence[Any]:
        """The values of a kept column in the type of its field."""
        ...


class _Parquet:
    def __init__(self, stream: BinaryIO) -> None:
        self._file = pq.ParquetFile(stream)
        self.schema = self._file.schema_arrow

    def batches(self, columns: list[str]) -> Iterator[tuple[int, Batch]]:
        for batch in self._file.iter_batches(columns=columns):
            yield batch.num_rows, {name: _column(batch, name).to_pylist() for name in columns}

    def kept(self, values: Sequence[Any]) -> Sequence[Any]:
        return values


class _Delimited:
    """CSV and its kin, by the csv module: only the columns that are asked for are looked at."""

    def __init__(self, uri: str, stream: BinaryIO, known: set[str]) -> None:
        self._uri, self._text = uri, _text(uri, stream)
        headers = []
        for delimiter in DELIMITERS:
            self._text.seek(0)
            names = next(_filled(self._reader(delimiter, strict=False)), [])
            headers.append((delimiter, [name.strip() for name in names]))
        # the delimiter that gives the most columns that are looked for, else the most columns
        self._delimiter, header = max(
            headers, key=lambda each: (len(known & {n.lower() for n in each[1]}), len(each[1]))
        )
        if not header:
            raise InputError(f"{uri} is empty: its first line must have the names of the columns, e.g. uri,age,gender")
        self.schema = pa.schema([(name, pa.string()) for name in header])
        self._width = len(header)

    def batches(self, columns: list[str]) -> Iterator[tuple[int, Batch]]:
        self._text.seek(0)
        reader = self._reader(self._delimiter)
        rows = _filled(reader)
        next(rows)
        indices = [self.schema.names.index(name) for name in columns]
        checked = (self._checked(row, reader.line_num, indices) for row in rows)
        while batch := list(itertools.islice(checked, BATCH_ROWS)):
            yield len(batch), dict(zip(columns, zip(*batch, strict=True), strict=True))

    def kept(self, values: Sequence[Any]) -> Sequence[Any]:
        return values

    def _reader(self, delimiter: str, *, strict: bool = True) -> Any:  # Any: the type of csv.reader has no public name
        return csv.reader(_lines(self._uri, self._text), delimiter=delimiter, skipinitialspace=True, strict=strict)

    def _checked(self, row: list[str], line: int, indices: list[int]) -> list[str | None]:
        if len(row) != self._width and (len(row) < self._width or any(map(str.strip, row[self._width :]))):
            raise InputError(
                f"{self._uri}, line {line}: {len(row)} values, but the first line names {self._width} columns. "
                f"Put values that contain {self._delimiter!r} or a line break in double quotes"
            )
        values = [row[index].strip() or None for index in indices]
        for index, value in zip(indices, values, strict=True):
            if value is not None and not value.isascii():
                _check_utf8(self._uri, line, self.schema.names[index], value)
        return values


class _JsonLines:
    """One JSON object per line. The columns are the keys of the first lines; a key that a line lacks is null there."""

    def __init__(self, uri: str, stream: BinaryIO) -> None:
        self._uri, self._text = uri, _text(uri, stream)
        first = itertools.islice(self._objects(), JSON_LINES_FOR_NAMES)
        names = dict.fromkeys(itertools.chain.from_iterable(item for _, item in first))
        if not names:
            raise InputError(f'{uri} is empty: each line must be a JSON object, e.g. {{"uri": "a.jpg", "age": 31}}')
        self.schema = pa.schema([(name, pa.string()) for name in names])

    def batches(self, columns: list[str]) -> Iterator[tuple[int, Batch]]:
        self._text.seek(0)
        rows = ([self._value(line, name, item.get(name)) for name in columns] for line, item in self._objects())
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            yield len(batch), dict(zip(columns, zip(*batch, strict=True), strict=True))

    def kept(self, values: Sequence[Any]) -> Sequence[Any]:
        return [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, text in enumerate(_lines(self._uri, self._text), 1):
            if not text.strip():
                continue
            try:
                item = json.loads(text)
            except ValueError as error:
                raise InputError(
                    f"{self._uri}, line {line}: not JSON ({error}). Each line must be one object"
                ) from error
            if not isinstance(item, dict):
                raise InputError(
                    f"{self._uri}, line {line}: {type(item).__name__} where an object is expected, {{...}}"
                )
            yield line, item

    def _value(self, line: int, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not value.isascii():
            _check_utf8(self._uri, line, name, value)
        return value.strip() or None


def _kind(uri: str) -> str | None:
    """Format of a table by its name: ``delimited``, ``json lines``, ``.parquet``, one of ``NOT_READ``, or None."""
    name = files.name(uri).lower()
    unpacked = name.removesuffix(".gz")
    if unpacked.endswith(DELIMITED):
        return "delimited"
    if unpacked.endswith(JSON_LINES):
        return "json lines"
    return next((end for end in (PARQUET, *sorted(NOT_READ, key=len, reverse=True)) if name.endswith(end)), None)


@contextmanager
def _damage(uri: str, kind: str) -> Iterator[None]:
    """Errors of the libraries that read tables, as errors of the input."""
    try:
        yield
    except csv.Error as error:
        raise InputError(
            f"{uri} cannot be read as CSV: {error}. Is a double quote not closed, or a file no text?"
        ) from error
    except UnicodeError as error:
        raise InputError(f"{uri} cannot be read as text: {error}. Save it as CSV UTF-8") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{uri} cannot be unpacked as gzip: {error}. Is it complete?") from error
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno:  # from the disk; Arrow's own errors have no errno
            raise ResourceError(
                f"{uri}: {error}. Repair the disk or the mount, and run the same command again."
            ) from error
        raise InputError(
            f"{uri} cannot be read as {'Parquet' if kind == PARQUET else kind}: {error}. Is it complete?"
        ) from error


def _text(uri: str, stream: BinaryIO) -> TextIO:
    """The text of a file, unpacked; what is not UTF-8 becomes surrogates, which matter only in columns that are read."""
    if uri.lower().endswith(".gz"):
        stream = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]  # a BinaryIO in all but name
    head = stream.read(4096)
    stream.seek(0)
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    if encoding == "utf-8-sig" and b"\0" in head:
        raise InputError(
            f"{uri} is not text: it has zero bytes, as UTF-16 without a byte order mark, or a binary file. Save it as CSV UTF-8"
        )
    return io.TextIOWrapper(stream, encoding, errors="surrogateescape", newline="")


def _lines(uri: str, text: TextIO) -> Iterator[str]:
    while line := text.readline(MAX_LINE_CHARACTERS):
        if len(line) == MAX_LINE_CHARACTERS:
            raise InputError(f"{uri} has a line of more than {MAX_LINE_CHARACTERS:,} characters: is it a table?")
        yield line


def _filled(rows: Iterable[list[str]]) -> Iterator[list[str]]:
    """Rows that are not empty."""
    return (row for row in rows if any(map(str.strip, row)))


def _check_utf8(uri: str, line: int, name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        byte = value.encode(errors="surrogateescape")[len(value[: error.start].encode())]
        raise InputError(
            f"{uri}, line {line}: the value of {name!r} is not UTF-8 (byte 0x{byte:02x}), perhaps Latin-1 or Windows-1252. "
            "Save it as CSV UTF-8, or: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
        ) from error


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    struct, _, child = name.rpartition(".")
    return pc.struct_field(batch.column(struct), child)


def _addresses(batch: Batch, columns: Columns, length: int) -> Iterable[str | None]:
    """The uri, or the name in a table of bytes, of each row; None where the table does not say it."""
    if columns.name is not None:
        return map(_as_text, batch[columns.name])
    if columns.uri[::2] == ("", ""):
        return map(_as_text, batch[columns.uri[1]])
    if not columns.uri:
        return itertools.repeat(None, length)
    parts = [map(_as_text, batch[name]) for name in columns.uri[1::2]]
    return (_filled_in(columns.uri, values) for values in zip(*parts, strict=True))


def _filled_in(pattern: Sequence[str], values: Sequence[str | None]) -> str | None:
    """The pattern with the values of a row; None if one is missing."""
    if None in values:
        return None
    filled = list(pattern)
    filled[1::2] = values  # type: ignore[assignment]
    return "".join(filled)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")  # the name of a file may be any bytes
    if isinstance(value, dict | list):
        raise InputError(f"{value!r} in the column of addresses is not text")
    return str(value)


def _label_values(batch: Batch, columns: Columns, role: str, length: int) -> Iterable[Any]:
    if role not in columns.labels:
        return itertools.repeat(None, length)
    values, names = batch[columns.labels[role]], columns.classes.get(role)
    if names is not None:  # Hugging Face's -1 is an unknown class
        return (names[value] if value is not None and 0 <= value < len(names) else None for value in values)
    return (value.decode(errors="backslashreplace") if isinstance(value, bytes) else value for value in values)


def _box_values(uri: str, batch: Batch, columns: BoxColumns, *, first: bool) -> list[list[GivenBox]]:
    """The boxes in each row.

    Raises:
        InputError: four numbers without names, or the first batch has shares of the image's sides in place of pixels.
    """
    try:
        values = [batch[name] for name in columns.names]
        if len(values) == 1:
            boxes = [read_boxes(value, columns.form) for value in values[0]]
        else:
            assert columns.form is not None
            single = (box_of(sides, columns.form) for sides in zip(*values, strict=True))
            boxes = [[] if box is None else [box] for box in single]
    except UnnamedBoxError as error:
        raise InputError(f"{uri}: {error}") from error
    if first and are_shares(box for in_row in boxes for box in in_row):
        raise InputError(
            f"{uri}: all boxes of the first {len(boxes):,} rows lie between 0 and 1. Boxes are in pixels of the image as shown: "
            "multiply shares of its sides by its width and height"
        )
    return boxes


def _name_in_table(name: str | None, row: int, seen: SeenUris) -> str:
    """The name of an image of a table of bytes, or its row where it has none or shares it with an earlier one."""
    unique = name or str(row)
    if seen.add(unique) is not True:
        unique = str(row)
        while seen.add(unique) is not True:  # an earlier image may be named as this row is numbered
            unique += "_"
    return unique
