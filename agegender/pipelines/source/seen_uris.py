"""Which uris a listing has seen: exact, and on disk, so that memory does not grow with the source."""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

CACHE_KB = 16_000
"""Pages that SQLite holds in memory, whatever the table's size."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier listing said of a uri."""

    unit: int
    """Number of the unit that lists it."""
    version: str | None
    """Size and etag as they were then."""
    marked: bool = False
    """Whether ``mark`` was called for it."""


class SeenUris:
    """A set of uris, each with what an earlier listing said of it.

    Cost: at most ``CACHE_KB`` of memory; of disk the uri's length and about 25 bytes (55 where an earlier run listed it), in
    a file without a name where SQLite finds room (``SQLITE_TMPDIR``, ``TMPDIR``), which goes with the process; 3 to 12
    microseconds. A Python set of 8-byte hashes takes 83 bytes of memory per uri, and may take two uris for one.
    Uris that come in order, as those of a folder or prefix do, are appended; only unordered manifests cost random access.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)  # no name: a temporary file, gone when closed
        for statement in (
            f"PRAGMA cache_size = -{CACHE_KB}",
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "CREATE TABLE seen (uri BLOB PRIMARY KEY, seen INT, unit INT, version TEXT, marked INT) WITHOUT ROWID",
            "BEGIN",  # never committed: nobody reads the file afterwards
        ):
            self._table.execute(statement)

    def load(self, unit: int, listed: Iterable[tuple[str, str | None]]) -> None:
        """Enter the (uri, version) of a unit that an earlier listing wrote."""
        rows = ((_key(uri), unit, version) for uri, version in listed)
        self._table.executemany("INSERT INTO seen VALUES (?, 0, ?, ?, 0) ON CONFLICT DO NOTHING", rows)

    def mark(self, uris: Iterable[str]) -> None:
        """Mark uris of an earlier listing, for ``Earlier.marked``."""
        self._table.executemany("UPDATE seen SET marked = 1 WHERE uri = ?", ((_key(uri),) for uri in uris))

    def add(self, uri: str) -> bool | Earlier:
        """Add a uri. True: it is new; False: this listing has it already; else what an earlier listing said of it."""
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
