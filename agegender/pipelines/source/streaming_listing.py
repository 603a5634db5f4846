"""The listing of a predict run: written down unit by unit while scoring goes on, and taken up again by the next run. No Ray.

Under ``work_uri``::

    unit-NUMBER.parquet   the images of a unit: once written, which images it holds never changes
    listing.json          images, units, repeats and ignored files; there when the source was listed to its end

Every run lists its source anew and adds what no unit holds yet, so that a listing that was killed goes on, and images
that came later are units of their own behind the others. What was replaced under its name is counted, and handed on where
it is to be scored again.
"""

import itertools
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self

import pyarrow as pa
import pyarrow.parquet as pq

from agegender.config import SourceOptions
from agegender.errors import InputError
from agegender.pipelines.source.listing import SourceCounts, list_units, nothing_found, unit_number, unit_uri
from agegender.pipelines.source.reader import ListedImage, SourceReader
from agegender.pipelines.source.seen_uris import Earlier, SeenUris
from agegender.storage import files, tables

WAIT_S = 0.2
"""A reader of the listing waits so long for the next unit before it looks after its other business."""

REQUESTS_IN_FLIGHT = 16
"""To S3; a local file is done sooner than handed to a thread."""

EXAMPLES = 5


class GrowingListing:
    """Lists a source in a thread of its own; what is written can be scored at once.

    The thread needs no more memory for more images, and runs ahead of the scoring, so that it is soon known how much is left.

    Args:
        options: the source.
        work_uri: where the units are written.
        keep_columns: manifest columns to carry along.
        limit: list only so many images.
        again: takes the images that are to be scored again; None: none are.
    """

    def __init__(
        self,
        options: SourceOptions,
        work_uri: str,
        keep_columns: tuple[str, ...] = (),
        limit: int | None = None,
        again: "Again | None" = None,
    ) -> None:
        self._options, self._work_uri, self._limit, self._again = options, work_uri, limit, again
        self.counts = SourceCounts()
        self._reader = SourceReader(options, keep_columns, self.counts.ignored)
        self._index_uri = files.join(work_uri, "listing.json")
        self._progress = threading.Condition()
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="listing", daemon=True)
        self.units = 0
        """Written so far, those of earlier runs included; each is whole."""
        self.ended = False
        """Whether the source was listed to its end; before that the counts still grow."""
        self.changed = 0
        """Images whose size or etag differ from those that an earlier run listed, and that are not scored again."""
        self.changed_examples: list[str] = []

    def numbers(self) -> Iterator[int | None]:
        """The number of every unit, in order, as soon as it is written; None each time that none is there yet.

        Raises:
            InputError: the source holds no image, or one of its addresses nothing.
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
        """Where a unit is written."""
        return unit_uri(self._work_uri, number)

    def __enter__(self) -> Self:
        self.units = self._written()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join(timeout=10)  # a request may be under way that nobody waits for any more

    def _written(self) -> int:
        """Units of earlier runs. What a kill left behind a gap was never handed out, and is listed again.

        Raises:
            InputError: a gap that no kill leaves.
        """
        uris = [info.uri for info in files.list_files(self._work_uri, allow_empty=True)]
        numbers = {unit_number(uri) for uri in uris if uri != self._index_uri}
        end = next(number for number in itertools.count() if number not in numbers)
        behind = [number for number in numbers if number > end]
        if behind and (self._index_uri in uris or max(behind) - end >= REQUESTS_IN_FLIGHT):
            raise InputError(
                f"{self.address(end)}: not there, a unit of this run's listing. Units are numbered without a gap: bring the "
                "file back, or give another --output"
            )
        for number in behind:
            files.delete(self.address(number))
        return end

    def _run(self) -> None:
        try:
            with SeenUris() as seen:
                self._remember(seen)
                if self._again is not None:
                    seen.ask_for(self._again.uris())
                self._add_new(seen)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again where the listing is read)
            with self._progress:
                self._error = error
                self._progress.notify_all()

    def _remember(self, seen: SeenUris) -> None:
        """Take up the units that earlier runs wrote."""
        addresses = (self.address(number) for number in range(self.units))
        for number, data in enumerate(files.read_many(addresses, REQUESTS_IN_FLIGHT)):
            self._check_stopping()
            if isinstance(data, files.ObjectAnswer):
                raise data
            table = pq.read_table(pa.BufferReader(data), columns=["uri", "size_bytes", "etag"])
            seen.remember(number, _versions(table))
            self.counts.images += table.num_rows

    def _add_new(self, seen: SeenUris) -> None:
        known = files.read_json(self._index_uri) if files.exists(self._index_uri) else None
        full = self._limit is not None and self.counts.images >= self._limit
        if not full or known is None or self._again is not None:
            self._list(seen, full, known is not None)
        if full and known is not None:  # of a listing that stops at its limit the counts stand
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

    def _list(self, seen: SeenUris, full: bool, was_whole: bool) -> None:
        def is_new(image: ListedImage) -> bool:
            self._check_stopping()
            met = seen.meet(image.uri)
            if isinstance(met, Earlier):
                self._compare(image, met)
            self.counts.repeated += met is False
            return met is True and not full

        first = self.units

        def numbered() -> Iterator[tuple[int, pa.Table]]:
            for number, table in enumerate(list_units(self._reader, self.counts, self._limit, is_new), first):
                if was_whole and number == first:
                    files.delete(self._index_uri)  # it says that all is listed, which from here on is not so
                yield number, table

        def write(unit: tuple[int, pa.Table]) -> None:
            number, table = unit
            tables.write_table(self.address(number), table)

        in_flight = REQUESTS_IN_FLIGHT if files.is_s3(self._work_uri) else 1
        for _ in files.read_ahead(write, numbered(), in_flight):
            with self._progress:
                self.units += 1
                self._progress.notify_all()
        if self._again is not None:
            self._again.close(self._reader.keep_fields)

    def _compare(self, image: ListedImage, earlier: Earlier) -> None:
        changed = earlier.version not in (None, version_of(image.size_bytes, image.etag))
        if self._again is not None and (earlier.asked_for or (changed and self._again.takes_changed)):
            self._again.take(image, earlier.unit, self._reader.keep_fields)
        elif changed:
            self.changed += 1
            self.changed_examples += [image.uri] if len(self.changed_examples) < EXAMPLES else []

    def _check_stopping(self) -> None:
        if self._stopping:
            raise _Stopped


class Again(Protocol):
    """Takes the images that are to be scored again, as the listing meets them."""

    takes_changed: bool
    """Whether those whose size or etag differ are among them."""

    def uris(self) -> Iterator[str]:
        """The others, which were asked for by their uris; those that are listed no more are not met."""
        ...

    def take(self, image: ListedImage, unit: int, keep_fields: Sequence[pa.Field]) -> None:
        """Take one, as it is listed now, with the unit that holds it."""
        ...

    def close(self, keep_fields: Sequence[pa.Field]) -> None:
        """All were met."""
        ...


class _Stopped(Exception):  # noqa: N818  (no error: nobody reads the listing any more)
    """Ends the thread of a listing."""


def version_of(size_bytes: int | None, etag: str | None) -> str | None:
    """What differs when a file was replaced under its name; None where the source says nothing of it, as manifests do."""
    return None if size_bytes is None and etag is None else f"{size_bytes} {etag}"


def _versions(table: pa.Table) -> Iterator[tuple[str, str | None]]:
    columns = [table.column(name).to_pylist() for name in ("uri", "size_bytes", "etag")]
    return ((uri, version_of(size, etag)) for uri, size, etag in zip(*columns, strict=True))
