"""The images that tables name or hold: manifests (CSV, Parquet) and Parquet with the bytes of images. No Ray."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from agegender.config import SourceOptions
from agegender.data import labels
from agegender.errors import InputError
from agegender.pipelines.source.listed_image import ListedImage, label_of_name, labelled
from agegender.storage import files

MANIFEST_EXTENSIONS = (".csv", ".parquet")


class TableReader:
    """Lists the rows of tables.

    Args:
        options: the source.
        keep_columns: columns to keep.
    """

    def __init__(self, options: SourceOptions, keep_columns: tuple[str, ...]) -> None:
        self.options, self.keep_columns = options, keep_columns
        self.keep_fields: list[pa.Field] = []

    def csv(self, found: files.FileInfo) -> Iterator[ListedImage]:
        """The rows of a CSV manifest."""
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

    def parquet(self, found: files.FileInfo) -> Iterator[ListedImage]:
        """The rows of a Parquet manifest, or of Parquet with the bytes of images."""
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
        has_labels, codes = bool({"age", "gender"} & columns.keys()), self.options.gender_codes
        kept = list(zip(*(values[f"keep:{name}"] for name in self.keep_columns), strict=True)) or [()] * batch.num_rows
        rows = zip(values["uri"], *(values.get(role, nulls) for role in ("age", "gender", "race")), kept, strict=True)
        for uri, age, gender, race, keep in rows:
            address = _resolve(str(uri or ""), base)
            label = labels.from_values(age, gender, race, codes) if has_labels else label_of_name(self.options, address)
            yield labelled(address, label, kept=keep)


def _resolve(uri: str, base: str) -> str:
    """Resolve an address of a manifest, relative to the manifest's folder; in a table of bytes it is only a name."""
    return uri if not base or "://" in uri or uri.startswith("/") else files.join(base, uri)


def _in_table(image: ListedImage, found: files.FileInfo, row: int) -> ListedImage:
    values: dict[str, Any] = {name: getattr(image, name) for name in ListedImage.__slots__}
    return ListedImage(**values | {"container": found.uri, "offset": row, "etag": found.etag})
