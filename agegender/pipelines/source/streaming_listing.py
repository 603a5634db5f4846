"""The listing of a run: written unit by unit, concurrently with other work, and resumed by the next run. No Ray.

Under ``work_uri``::

    unit-NUMBER.parquet   the images of a unit; once written, its set of images never changes
    listing.json          images, units, repeats and ignored files; written when the listing is complete

``StreamingListing`` lists the source again in every run and adds the images that are in no unit yet: an
interrupted listing resumes, and images that were added later become new units at the end. Files that were replaced under
the same name are counted. ``drain`` is for jobs that need the whole listing first: a complete listing is read, not repeated.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from agegender.errors import InputError
from agegender.option_groups import LabelledSources, SourceOptions
from agegender.pipelines.runtime.layout import listing_index, unit_number, unit_uri
from agegender.pipelines.source.listed_image import ListedImage
from agegender.pipelines.source.listing import Listing, SourceCounts, list_units, nothing_found
from agegender.pipelines.source.reader import reader_of
from agegender.pipelines.source.seen_uris import Earlier, SeenUris
from agegender.storage import files, tables

WAIT_S = 0.2
"""How long a reader waits for the next unit before it gets None."""

REQUESTS_IN_FLIGHT = 16
"""To S3; writing a local file is faster than dispatching it to a thread."""

EXAMPLES = 5


class StreamingListing:
    """Lists a source in a background thread; each unit can be processed as soon as it is written.

    The thread's memory does not grow with the source. It does not wait for the workers, so the total is known early.

    Args:
        options: the source, or several that are labelled.
        work_uri: folder for the units.
        keep_columns: manifest columns to keep.
        limit: maximum number of images.
    """

    def __init__(
        self,
        options: SourceOptions | LabelledSources,
        work_uri: str,
        keep_columns: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> None:
        self._options, self._work_uri, self._limit = options, work_uri, limit
        self.counts = SourceCounts()
        self._reader = reader_of(options, keep_columns, self.counts.ignored)
        self._index_uri = listing_index(work_uri)
        self._progress = threading.Condition()
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="listing", daemon=True)
        self.units = 0
        """Units written so far, including those of earlier runs."""
        self.ended = False
        """Whether the listing is complete; until then the counts grow."""
        self.changed = 0
        """Images whose size or etag differ from an earlier run's listing."""
        self.changed_examples: list[str] = []

    def numbers(self) -> Iterator[int | None]:
        """Yield the number of every unit, in order, as soon as it is written; None if the next is not ready yet.

        Raises:
            InputError: the source has no image, or no file at one of its addresses.
            ResourceError: storage does not answer.
        """
        number = 0
        while True:
            with self._progress:
                if number >= self.units and not self.ended and self._error is None:
                    self._progress.wait(WAIT_S)
                if self._error is not None:
                    raise self._error
                written, ended = self.units, self.ended
            if number < written:
                yield number
                number += 1
            elif ended:
                return
            else:
                yield None

    def address(self, number: int) -> str:
        """Address of a unit."""
        return unit_uri(self._work_uri, number)

    def ends_within(self, images: int) -> bool:
        """Whether the source has at most this many images; waits until that is known.

        Raises:
            InputError: the source has no image, or no file at one of its addresses.
            ResourceError: storage does not answer.
        """
        while True:
            with self._progress:
                if self._error is not None:
                    raise self._error
                if self.ended or self.counts.images > images:
                    return self.counts.images <= images
                self._progress.wait(WAIT_S)

    def __enter__(self) -> Self:
        self.units = self._written()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join(timeout=10)  # do not wait longer for a request in flight

    def _written(self) -> int:
        """Number of units of earlier runs. Units after a gap were never processed: they are deleted and listed again.

        Raises:
            InputError: a gap that an interrupted run does not leave.
        """
        uris = [info.uri for info in files.list_files(self._work_uri, allow_empty=True)]
        numbers = {unit_number(uri) for uri in uris if uri != self._index_uri}
        end = next(number for number in itertools.count() if number not in numbers)
        behind = [number for number in numbers if number > end]
        if behind and (self._index_uri in uris or max(behind) - end >= REQUESTS_IN_FLIGHT):
            raise InputError(
                f"{self.address(end)}: this unit of the run's listing is missing. Restore the file, "
                "or give another --output"
            )
        for number in behind:
            files.delete(self.address(number))
        return end

    def _run(self) -> None:
        try:
            with SeenUris() as seen:
                self._load(seen)
                self._add_new(seen)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again by the reader of the listing)
            with self._progress:
                self._error = error
                self._progress.notify_all()

    def _load(self, seen: SeenUris) -> None:
        for images in load_units(seen, [self.address(number) for number in range(self.units)]):
            self._check_stopping()
            self.counts.images += images

    def _add_new(self, seen: SeenUris) -> None:
        known = files.read_json(self._index_uri) if files.exists(self._index_uri) else None
        full = self._limit is not None and self.counts.images >= self._limit
        if not full or known is None:
            self._list(seen, full, known is not None)
        if full and known is not None:  # the source is not listed again at its limit: keep the counts
            self.counts.repeated = known["repeated"]
            self.counts.ignored.clear()
            self.counts.ignored.update(known["ignored"])
        if not self.counts.images:
            raise InputError(nothing_found(self._options, self.counts))
        index = {
            "images": self.counts.images,
            "repeated": self.counts.repeated,
            "ignored": dict(self.counts.ignored),
            "units": self.units,
        }
        if index != known:
            files.write_json(self._index_uri, index)
        with self._progress:
            self.ended = True
            self._progress.notify_all()

    def _list(self, seen: SeenUris, full: bool, was_complete: bool) -> None:
        def is_new(image: ListedImage) -> bool:
            self._check_stopping()
            added = seen.add(image.uri)
            if isinstance(added, Earlier):
                self._compare(image, added)
            self.counts.repeated += added is False
            return added is True and not full

        first = self.units

        def numbered() -> Iterator[tuple[int, pa.Table]]:
            for number, table in enumerate(list_units(self._reader, self.counts, self._limit, is_new), first):
                if was_complete and number == first:
                    files.delete(self._index_uri)  # the index marks a complete listing, which this no longer is
                yield number, table

        def write(unit: tuple[int, pa.Table]) -> None:
            number, table = unit
            tables.write_table(self.address(number), table)

        in_flight = REQUESTS_IN_FLIGHT if files.is_s3(self._work_uri) else 1
        for _ in files.read_ahead(write, numbered(), in_flight):
            with self._progress:
                self.units += 1
                self._progress.notify_all()

    def _compare(self, image: ListedImage, earlier: Earlier) -> None:
        if has_changed(image, earlier):
            self.changed += 1
            self.changed_examples += [image.uri] if len(self.changed_examples) < EXAMPLES else []

    def _check_stopping(self) -> None:
        if self._stopping:
            raise _Stopped


class _Stopped(Exception):  # noqa: N818  (not an error: the listing has no reader any more)
    """Ends the thread of a listing."""


def drain(options: SourceOptions | LabelledSources, work_uri: str) -> Listing:
    """List a whole source, or read the complete listing in ``work_uri``.

    Raises:
        InputError: the source has no image, or no file at one of its addresses.
        ResourceError: storage does not answer.
    """
    index_uri = listing_index(work_uri)
    if not files.exists(index_uri):
        with StreamingListing(options, work_uri) as listing:
            for _ in listing.numbers():
                pass
    index = files.read_json(index_uri)
    units = [unit_uri(work_uri, number) for number in range(index["units"])]
    return Listing(work_uri, units, index["images"], index["repeated"], index["ignored"])


def load_units(seen: SeenUris, units: Sequence[str]) -> Iterator[int]:
    """Load the images of existing units, by unit number; yields the number of images of each.

    Raises:
        ResourceError: a unit cannot be read.
    """
    for number, data in enumerate(files.read_many(iter(units), REQUESTS_IN_FLIGHT)):
        if isinstance(data, files.ObjectAnswer):
            raise data
        table = pq.read_table(pa.BufferReader(data), columns=["uri", "size_bytes", "etag"])
        seen.load(number, _versions(table))
        yield table.num_rows


def has_changed(image: ListedImage, earlier: Earlier) -> bool:
    """Whether a file was replaced under the same name since an earlier listing."""
    return earlier.version not in (None, version_of(image.size_bytes, image.etag))


def version_of(size_bytes: int | None, etag: str | None) -> str | None:
    """A version that changes if the file is replaced; None if the source has none, such as a manifest."""
    return None if size_bytes is None and etag is None else f"{size_bytes} {etag}"


def _versions(table: pa.Table) -> Iterator[tuple[str, str | None]]:
    columns = [table.column(name).to_pylist() for name in ("uri", "size_bytes", "etag")]
    return ((uri, version_of(size, etag)) for uri, size, etag in zip(*columns, strict=True))
