"""List the images of a SOURCE: folders, manifests, tables of bytes, tar shards. No Ray."""

import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from agegender.config import SourceOptions
from agegender.data import labels
from agegender.data.labels import Label
from agegender.errors import InputError
from agegender.storage import files

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2"}
    | {".ppm", ".pgm", ".heic", ".heif", ".avif", ".tga", ".ico"}
)
"""In a folder or tar, files with these extensions or without one are images; the decoder determines the format."""

MANIFEST_EXTENSIONS = (".csv", ".parquet")
UNLABELLED = Label()


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One row of ``schema.LISTING``, with the kept columns."""

    uri: str
    container: str | None = None
    offset: int | None = None
    size_bytes: int | None = None
    etag: str | None = None
    age_years: float | None = None
    gender: int | None = None
    race: int | None = None
    label_problem: str | None = None
    kept: tuple[Any, ...] = ()


class SourceReader:
    """Lists all inputs of a source, one after the other.

    Args:
        options: the source.
        keep_columns: manifest columns to keep.
        ignored: counts, by extension, of files that are not images.
    """

    def __init__(self, options: SourceOptions, keep_columns: tuple[str, ...], ignored: Counter[str]) -> None:
        self.options, self.keep_columns, self.ignored = options, keep_columns, ignored
        self.keep_fields: list[pa.Field] = []

    def images(self) -> Iterator[ListedImage]:
        """Every image of every input, in the order given, repeats included."""
        for address in self.options.input:
            uri = files.absolute(address)
            if self.keep_columns and not uri.lower().endswith(MANIFEST_EXTENSIONS):
                names = ", ".join(self.keep_columns)
                raise InputError(
                    f"{address} has no columns to keep {names} from: --keep-columns needs a .csv or .parquet"
                )
            for found in files.list_files(uri):
                yield from self._file(found, named=found.uri == uri)

    def _file(self, found: files.FileInfo, named: bool) -> Iterator[ListedImage]:
        extension = _extension(found.uri)
        if extension == ".tar":
            yield from self._tar(found)
        elif extension == ".parquet":
            yield from self._parquet(found)
        elif extension == ".csv" and named:
            yield from self._csv(found)
        elif named or extension in IMAGE_EXTENSIONS or not extension:
            yield self._image(found.uri, size_bytes=found.size_bytes, etag=found.etag)
        else:
            self.ignored[extension] += 1

    def _image(self, uri: str, **location: Any) -> ListedImage:
        return self._labelled(uri, self._label_of_name(uri), **location)

    def _labelled(self, uri: str, label: Label, **rest: Any) -> ListedImage:
        return ListedImage(
            uri=uri,
            age_years=label.age_years,
            gender=label.gender,
            race=label.race,
            label_problem=label.problem,
            **rest,
        )

    def _label_of_name(self, uri: str) -> Label:
        if self.options.labels in ("auto", "filename"):
            return labels.from_filename(files.name(uri.rpartition("#")[2]))
        if self.options.labels == "folder":
            return labels.from_folder(uri.replace("#", "/"))
        return UNLABELLED

    def _tar(self, found: files.FileInfo) -> Iterator[ListedImage]:
        with files.open_for_reading(found.uri) as stream:
            try:
                yield from self._members(stream, found)
            except tarfile.TarError:
                # The damaged archive becomes a row itself, whose status will be that of a file that is not an image.
                yield ListedImage(uri=found.uri, size_bytes=found.size_bytes, etag=found.etag)

    def _members(self, stream: BinaryIO, found: files.FileInfo) -> Iterator[ListedImage]:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member: memory would grow with the shard
                if not member.isfile():
                    continue
                extension = _extension(member.name)
                if extension in IMAGE_EXTENSIONS:
                    yield self._image(
                        f"{found.uri}#{member.name}",
                        container=found.uri,
                        offset=member.offset_data,
                        size_bytes=member.size,
                        etag=found.etag,
                    )
                else:
                    self.ignored[extension] += 1

    def _csv(self, found: files.FileInfo) -> Iterator[ListedImage]:
        options = self.options
        as_text = {
            name: pa.string()
            for name in (options.uri_column, options.age_column, options.gender_column, options.race_column)
        }
        with files.open_for_reading(found.uri) as stream:
            try:
                reader = pa.csv.open_csv(stream, convert_options=pa.csv.ConvertOptions(column_types=as_text))
                columns = self._columns(found.uri, reader.schema)
                base = files.parent(found.uri)
                for batch in reader:
                    yield from self._rows(batch, columns, base)
            except pa.ArrowInvalid as error:
                raise InputError(f"{found.uri} cannot be read as CSV: {error}") from error

    def _parquet(self, found: files.FileInfo) -> Iterator[ListedImage]:
        with files.open_for_reading(found.uri) as stream:
            try:
                table = pq.ParquetFile(stream)
                columns = self._columns(found.uri, table.schema_arrow)
                holds_bytes = self.options.bytes_column in table.schema_arrow.names
                base, row = files.parent(found.uri), 0
                for batch in table.iter_batches(columns=list(dict.fromkeys(columns.values()))):
                    for image in self._rows(batch, columns, "" if holds_bytes else base):
                        yield _in_table(image, found, row) if holds_bytes else image
                        row += 1
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(f"{found.uri} cannot be read as Parquet: {error}. Is it complete?") from error

    def _columns(self, uri: str, schema: pa.Schema) -> dict[str, str]:
        """Role -> column name, of the columns found; the uri and the kept columns are required."""
        options = self.options
        missing = [name for name in (options.uri_column, *self.keep_columns) if name not in schema.names]
        if missing:
            raise InputError(
                f"{uri} has no column {missing[0]!r}; its columns are {schema.names}. "
                "Name the column of addresses with --uri-column, others with --keep-columns"
            )
        roles = {"uri": options.uri_column}
        if options.labels in ("auto", "manifest"):
            label_columns = {"age": options.age_column, "gender": options.gender_column, "race": options.race_column}
            roles.update({role: name for role, name in label_columns.items() if name in schema.names})
        if options.labels == "manifest" and not {"age", "gender"} & roles.keys():
            raise InputError(
                f"{uri} has neither {options.age_column!r} nor {options.gender_column!r}; its columns are {schema.names}. "
                "Name them with --age-column and --gender-column"
            )
        self.keep_fields = self.keep_fields or [schema.field(name) for name in self.keep_columns]
        return roles | {f"keep:{name}": name for name in self.keep_columns}

    def _rows(self, batch: pa.RecordBatch, columns: Mapping[str, str], base: str) -> Iterator[ListedImage]:
        values = {role: batch.column(name).to_pylist() for role, name in columns.items()}
        nulls = [None] * batch.num_rows
        has_labels = bool({"age", "gender"} & columns.keys())
        kept = list(zip(*(values[f"keep:{name}"] for name in self.keep_columns), strict=True)) or [()] * batch.num_rows
        rows = zip(values["uri"], *(values.get(role, nulls) for role in ("age", "gender", "race")), kept, strict=True)
        for uri, age, gender, race, keep in rows:
            address = _resolve(str(uri or ""), base)
            label = labels.from_values(age, gender, race) if has_labels else self._label_of_name(address)
            yield self._labelled(address, label, kept=keep)


def _extension(uri: str) -> str:
    stem, dot, extension = files.name(uri).rpartition(".")
    return f".{extension.lower()}" if dot and stem else ""


def _resolve(uri: str, base: str) -> str:
    """Resolve an address of a manifest, relative to the manifest's folder; in a table of bytes it is only a name."""
    return uri if not base or "://" in uri or uri.startswith("/") else files.join(base, uri)


def _in_table(image: ListedImage, found: files.FileInfo, row: int) -> ListedImage:
    values: dict[str, Any] = {name: getattr(image, name) for name in ListedImage.__slots__}
    return ListedImage(**values | {"container": found.uri, "offset": row, "etag": found.etag})
