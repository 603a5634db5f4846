"""List the images of a SOURCE: folders, manifests, tables of bytes, archives. No Ray."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from agegender.data.boxes import GivenBox
from agegender.errors import InputError
from agegender.option_groups import LabelledSources, Source, SourceOptions
from agegender.pipelines.source.archives import ArchiveReader
from agegender.pipelines.source.boxes import beside_kept, read_beside
from agegender.pipelines.source.containers import check_read, is_archive
from agegender.pipelines.source.listed_image import UNLABELLED, ListedImage, extension, label_of_name, labelled
from agegender.pipelines.source.own_outputs import OWN_OUTPUT, OwnPictures
from agegender.pipelines.source.selection import SourceSelection
from agegender.pipelines.source.tables import TableReader, is_table, kind_of_parquet
from agegender.schema import BOXES, IMAGE_EXTENSIONS, SOURCE
from agegender.storage import files

REQUESTS_IN_FLIGHT = 32
"""To S3, for the JSON beside each image."""


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
        self._archives = ArchiveReader(options, keep_columns, ignored)
        self._own = OwnPictures()

    @property
    def keep_fields(self) -> list[pa.Field]:
        """Fields of the kept columns, known from the first image on; with boxes, of lists with a value for each box."""
        if self.options.boxes is None:
            return self._tables.keep_fields
        return [BOXES, *(pa.field(kept.name, pa.list_(kept.type)) for kept in self._tables.keep_fields)]

    def separates(self, before: ListedImage, after: ListedImage) -> bool:  # noqa: ARG002  (of several sources it matters)
        """Whether two consecutive images may not be in one unit."""
        return False

    def images(self) -> Iterator[ListedImage]:
        """Every image of every input, in the order given, repeats included."""
        for address in self.options.input:
            uri = files.absolute(address)
            if files.is_web(uri) and not self.options.allow_http:
                raise InputError(f"{address}: addresses of the web are read only with --allow-http")
            selection = SourceSelection(self.options.exclude, self.options.include, self.ignored)
            listed = files.list_files(uri, selection=selection)
            in_flight = REQUESTS_IN_FLIGHT if self.options.boxes is not None and files.is_s3(uri) else 1
            for found, boxes in files.read_ahead(self._with_boxes, listed, in_flight):
                yield from self._file(found, found.uri == uri, boxes)

    def _with_boxes(self, found: files.FileInfo) -> tuple[files.FileInfo, list[GivenBox]]:
        """A file and the boxes in the JSON beside it, where they are asked for and it is an image by its name."""
        if self.options.boxes is None or files.is_web(found.uri):
            return found, []
        is_image = extension(found.uri) in IMAGE_EXTENSIONS or not extension(found.uri)
        return found, read_beside(found.uri, self.options.boxes) if is_image else []

    def _file(self, found: files.FileInfo, named: bool, boxes: list[GivenBox]) -> Iterator[ListedImage]:
        suffix = extension(found.uri)
        if is_archive(found.uri):
            self._tables.keep(found.uri, pa.schema(self._archives.keep_fields))
            yield from self._archives.images(found)
        elif suffix == ".parquet" and not named:
            yield from self._parquet_in_folder(found)
        elif named and is_table(found.uri):
            yield from self._tables.images(found)
        elif not named and suffix and suffix not in IMAGE_EXTENSIONS:
            if self.options.boxes is None or suffix != ".json":
                self.ignored[suffix] += 1
        elif not named and self._own.is_own(found.uri):
            self.ignored[OWN_OUTPUT] += 1
        elif self.keep_columns:
            names = ", ".join(self.keep_columns)
            raise InputError(
                f"{found.uri}: has no columns to keep {names} from. --keep-columns needs a table, or tar with JSON"
            )
        else:
            if named:
                check_read(found.uri)
            label = label_of_name(self.options, found.uri)
            kept = () if self.options.boxes is None else beside_kept(boxes)
            yield labelled(found.uri, label, size_bytes=found.size_bytes, etag=found.etag, kept=kept)

    def _parquet_in_folder(self, found: files.FileInfo) -> Iterator[ListedImage]:
        """The images that a table holds; a table that only names images counts as a source only if it is named itself."""
        kind = kind_of_parquet(found.uri, self.options)
        if kind == "damaged":  # a row, whose status will be that of a file that is not an image
            kept: tuple[Any, ...] = (None,) * len(self.keep_columns)
            kept = kept if self.options.boxes is None else beside_kept([], kept)
            yield labelled(found.uri, UNLABELLED, size_bytes=found.size_bytes, etag=found.etag, kept=kept)
        elif kind == "images":
            yield from self._tables.images(found)
        else:
            self.ignored[OWN_OUTPUT if kind == "own" else ".parquet"] += 1


class LabelledReader:
    """Lists several sources, each with its own options, one after the other; a unit holds images of one source.

    Args:
        sources: to list.
        ignored: counts, by kind, of files that are not images.
    """

    keep_fields: tuple[pa.Field, ...] = (SOURCE,)

    def __init__(self, sources: Sequence[Source], ignored: Counter[str]) -> None:
        self.options = sources[0].options
        """Of the first source; those of units are the same in all."""
        self._readers = {source.name: SourceReader(source.options, (), ignored) for source in sources}

    def separates(self, before: ListedImage, after: ListedImage) -> bool:
        """See ``SourceReader``."""
        return before.kept != after.kept

    def images(self) -> Iterator[ListedImage]:
        """Every image of every source, in the order given, repeats included."""
        for name, reader in self._readers.items():
            for image in reader.images():
                yield replace(image, kept=(name,))


def reader_of(
    options: SourceOptions | LabelledSources, keep_columns: tuple[str, ...], ignored: Counter[str]
) -> SourceReader | LabelledReader:
    """The reader of a source, or of several that are labelled.

    Args:
        options: of the job.
        keep_columns: manifest columns to keep; of labelled sources none are.
        ignored: counts, by kind, of files that are not images.
    """
    if isinstance(options, LabelledSources):
        return LabelledReader(options.sources(), ignored)
    return SourceReader(options, keep_columns, ignored)
