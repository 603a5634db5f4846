"""The set of uris that a listing has seen: exact, and on disk, so that memory does not grow with the source."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

CACHE_KB = 16_000
"""SQLite's page cache, independent of the table's size."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The entry of a uri in an earlier listing."""

    unit: int
    """Number of the unit that lists it."""
    version: str | None
    """Size and etag at that time."""
    marked: bool = False
    """Whether ``mark`` was called for it."""


class SeenUris:
    """A set of uris, with their entries in an earlier listing.

    Cost: at most ``CACHE_KB`` of memory. Per uri, 3 to 12 microseconds, and its length plus about 25 bytes of disk (55 if an
    earlier run listed it), in an unnamed temporary file of SQLite (``SQLITE_TMPDIR``, ``TMPDIR``) that is deleted with the
    process. A Python set of 8-byte hashes takes 83 bytes of memory per uri, and hashes may collide. Sorted uris, as of a
    folder or prefix, are appended; only unordered manifests cost random access.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)  # no name: a temporary file, deleted when closed
        for statement in (
            f"PRAGMA cache_size = -{CACHE_KB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE seen (uri BLOB PRIMARY KEY, seen INT, unit INT, version TEXT, marked INT) WITHOUT ROWID",
            "BEGIN",  # never committed: the file is temporary
        ):
            self._table.execute(statement)

    def load(self, unit: int, listed: Iterable[tuple[str, str | None]]) -> None:
        """Load the (uri, version) of a unit of an earlier listing."""
        rows = ((_key(uri), unit, version) for uri, version in listed)
        self._table.executemany("INSERT INTO seen VALUES (?, 0, ?, ?, 0) ON CONFLICT DO NOTHING", rows)

    def mark(self, uris: Iterable[str]) -> None:
        """Mark uris of an earlier listing, for ``Earlier.marked``."""
        self._table.executemany("UPDATE seen SET marked = 1 WHERE uri = ?", ((_key(uri),) for uri in uris))

    def add(self, uri: str) -> bool | Earlier:
        """Add a uri. True: it is new; False: this listing has it already; else its entry in an earlier listing."""
        key = _key(uri)
        added = self._table.execute("INSERT INTO seen VALUES (?, 1, NULL, NULL, 0) ON CONFLICT DO NOTHING", (key,))
        if added.rowcount:
            return True
        found = self._table.execute("SELECT seen, unit, version, marked FROM seen WHERE uri = ?", (key,))
        again, unit, version, marked = found.fetchone()
        if again:
            return False
        self._table.execute("UPDATE seen SET seen = 1 WHERE uri = ?", (key,))
        return Earlier(unit, version, bool(marked))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.close()


def _key(uri: str) -> bytes:
    return uri.encode(errors="surrogateescape")
