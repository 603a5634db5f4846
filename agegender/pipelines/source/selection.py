"""Which names of a folder or an archive are left out of a source, and how many of each kind. No Ray, no disk."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from agegender.storage.answers import Selection

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

SYSTEM_FOLDERS = frozenset(
    {"@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"}  # Synology, QNAP
    | {"$recycle.bin", "system volume information", "lost+found"}  # Windows, Linux
)
"""Folders in which network storage and file systems keep thumbnails and deleted files, in lower case."""

COUNTED_ONCE = 10_000
"""So many left-out folders are remembered, so that the files in one count once where storage lists them one by one."""


class SourceSelection(Selection):
    """What a source leaves out: hidden names, folders of the system, and what ``--exclude`` and ``--include`` say.

    A folder is counted once, whatever is in it.

    Args:
        exclude: patterns in the syntax of .gitignore, of paths relative to the input.
        include: patterns of which a file must match one; empty: all files.
        ignored: counts what is left out, by kind.
    """

    def __init__(self, exclude: Sequence[str], include: Sequence[str], ignored: Counter[str]) -> None:
        self._exclude, self._include = _spec(exclude), _spec(include)
        self._ignored = ignored
        self._counted: dict[str, None] = {}
        self._parent: str = ""
        self._left_out: tuple[str, str] | None = None
        """Folder at or above ``_parent`` that is left out, and its kind."""

    def skips(self, relative: str) -> bool:
        """See ``Selection``."""
        parent, _, name = relative.rpartition("/")
        if parent != self._parent:  # names come folder by folder, and patterns cost more than the listing
            self._parent, self._left_out = parent, self._folder_left_out(parent)
        if self._left_out is not None:
            folder, kind = self._left_out
            if folder not in self._counted:
                self._ignored[kind] += 1
                self._counted[folder] = None
                if len(self._counted) > COUNTED_ONCE:
                    del self._counted[next(iter(self._counted))]
            return True
        kind_of_file = self._kind_of_file(relative, name) if name else None
        if kind_of_file is not None:
            self._ignored[kind_of_file] += 1
        return kind_of_file is not None

    def note(self, kind: str) -> None:
        """See ``Selection``."""
        self._ignored[kind] += 1

    def _folder_left_out(self, folder: str) -> tuple[str, str] | None:
        path = ""
        for name in folder.split("/") if folder else ():
            path += f"{name}/"
            if name.startswith((".", "_")):
                return path, "hidden name"
            if name.lower() in SYSTEM_FOLDERS:
                return path, "system folder"
            if self._exclude and self._exclude.match_file(path):
                return path, "excluded"
        return None

    def _kind_of_file(self, relative: str, name: str) -> str | None:
        if name.startswith((".", "_")):
            return "hidden name"
        if self._exclude and self._exclude.match_file(relative):
            return "excluded"
        return "not included" if self._include and not self._include.match_file(relative) else None


def _spec(patterns: Sequence[str]) -> "GitIgnoreSpec | None":
    if not patterns:
        return None
    from pathspec import GitIgnoreSpec  # most sources have no patterns, and workers never

    return GitIgnoreSpec.from_lines(patterns)
