"""List the images of a SOURCE: folders, manifests, tables of bytes, archives. No Ray."""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from agegender.config import SourceOptions
from agegender.errors import InputError
from agegender.pipelines.source.archives import ArchiveReader
from agegender.pipelines.source.listed_image import ListedImage, extension, label_of_name, labelled
from agegender.pipelines.source.tables import TableReader, is_table, kind_of_parquet
from agegender.schema import IMAGE_EXTENSIONS
from agegender.storage import files


class SourceReader:
    """Lists all inputs of a source, one after the other.

    Args:
        options: the source.
        keep_columns: manifest columns to keep.
        ignored: counts, by kind, of files that are not images.
    """

    def __init__(self, options: SourceOptions, keep_columns: tuple[str, ...], ignored: Counter[str]) -> None:
        self.options, self.keep_columns, self.ignored = options, keep_columns, ignored
        self._tables = TableReader(options, keep_columns)
        self._archives = ArchiveReader(options, ignored)

    @property
    def keep_fields(self) -> list[pa.Field]:
        """Fields of the kept columns; known from the first table on."""
        return self._tables.keep_fields

    def images(self) -> Iterator[ListedImage]:
        """Every image of every input, in the order given, repeats included."""
        for address in self.options.input:
            uri = files.absolute(address)
            if self.keep_columns and not is_table(uri):
                names = ", ".join(self.keep_columns)
                raise InputError(
                    f"{address} has no columns to keep {names} from: --keep-columns needs a table, e.g. .csv or .parquet"
                )
            for found in files.list_files(uri):
                yield from self._file(found, named=found.uri == uri)

    def _file(self, found: files.FileInfo, named: bool) -> Iterator[ListedImage]:
        suffix = extension(found.uri)
        if suffix == ".tar":
            yield from self._archives.images(found)
        elif (named and is_table(found.uri)) or (
            suffix == ".parquet" and kind_of_parquet(found.uri, self.options) == "images"
        ):
            yield from self._tables.images(found)
        elif named or suffix in IMAGE_EXTENSIONS or not suffix:
            label = label_of_name(self.options, found.uri)
            yield labelled(found.uri, label, size_bytes=found.size_bytes, etag=found.etag)
        else:
            self.ignored[suffix] += 1
