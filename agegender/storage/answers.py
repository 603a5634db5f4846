"""What storage answers about one object: its description, or a definite reason why it cannot be read."""

from dataclasses import dataclass

from agegender.errors import InputError
from agegender.schema import Status

PEEK_NAMES = 3
"""How many names ``peek`` returns at most."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file or object, as listed."""

    uri: str
    size_bytes: int
    etag: str
    """Changes when the content changes; local: the modification time in ns as text."""


class ObjectAnswer(InputError):  # noqa: N818  (for most callers it is an answer, not an error)
    """A definite negative answer about one object, never an outage: a retry would get the same answer.

    For an image it becomes a row with ``status``; where the object is the input itself, it is an ``InputError``.
    """

    def __init__(self, status: Status, uri: str, reason: str) -> None:
        """Create the answer.

        Args:
            status: ``MISSING`` or ``UNREADABLE``.
            uri: the requested object.
            reason: the system's message, without the uri.
        """
        super().__init__(status, uri, reason)
        self.status = status
        self.uri = uri
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.uri}: {self.reason}"


def is_hidden(relative: str) -> bool:
    """Whether a listing skips a path: a part of it begins with ``.`` or ``_``, as in Spark, Hive and Ray."""
    return any(part.startswith((".", "_")) for part in relative.split("/"))


class Selection:
    """What a listing leaves out, by paths relative to the listed folder. This one: names that begin with ``.`` or ``_``."""

    def skips(self, relative: str) -> bool:
        """Whether to leave out a file, or a folder with all that it holds; the path of a folder ends with a slash."""
        return is_hidden(relative)

    def note(self, kind: str) -> None:
        """Told of something that is no file and no folder, such as a named pipe."""


class Everything(Selection):
    """Leaves nothing out."""

    def skips(self, relative: str) -> bool:  # noqa: ARG002
        """Never."""
        return False
