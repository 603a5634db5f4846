"""A first look at the inputs of a job, before a model is loaded or a detector is looked for. No Ray."""

import difflib
import itertools
import os
from collections.abc import Sequence

from agegender.errors import InputError
from agegender.storage import files
from agegender.storage.addresses import local_path

NAMES_COMPARED = 10_000
"""Of the folder above a wrong path; a larger one is not read to the end."""


def check_inputs(inputs: Sequence[str]) -> None:
    """Refuse an input at which there is nothing; one or two requests for each on S3.

    Not for a run with a record: if it is finished it needs no input.

    Args:
        inputs: addresses as given.

    Raises:
        InputError: names the address, and similar names beside it.
        ResourceError: storage does not answer.
    """
    for given in inputs:
        uri = files.absolute(given)
        if files.is_s3(uri):
            if not _is_on_s3(uri):
                raise InputError(f"{given}: no such object or prefix. Check the address")
        elif uri.startswith(("/", "file://")) and not os.path.lexists(path := local_path(uri)):
            raise InputError(f"{given}: no such file or folder{_near(path)}. Check the address")


def _is_on_s3(uri: str) -> bool:
    try:
        if files.peek(uri, hidden=True):
            return True
    except InputError:
        pass  # an object may be readable where listing is not allowed
    try:
        return files.stat(uri) is not None
    except files.ObjectAnswer:
        return True  # not known; the listing gives the reason


def _near(path: str) -> str:
    """Similar names in the folder above, or the first folder above that does not exist."""
    folder, name = os.path.split(path.rstrip("/"))
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in itertools.islice(entries, NAMES_COMPARED)]
    except OSError:
        return f" ({folder} does not exist either)" if not os.path.lexists(folder) else ""
    near = difflib.get_close_matches(name, names, 2)
    return f". In {folder} there is {' and '.join(near)}" if near else ""
