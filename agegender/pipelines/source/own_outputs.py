"""Pictures that jobs of agegender wrote inside a source: never images of the source. No Ray."""

import re

from agegender.errors import InputError
from agegender.storage import files

OWN_OUTPUT = "output of agegender"
"""Kind under which it is counted."""

_PICTURES = (
    (re.compile(r"(.*)/figures/[^/]+\.png"), "eda", "run.json"),
    (re.compile(r"(.*)/(?:\d{5,}-[^/]*|sheet-\d{3,})\.jpg"), "preview", "_run.json"),
)
"""Name of a picture within OUTPUT, the job that writes such, and the record of its run."""

REMEMBERED_FOLDERS = 10_000


class OwnPictures:
    """Tells pictures that ``eda`` and ``preview`` wrote, by their names and the record of the run above them.

    All other files that jobs write have hidden names, or are no images by their names.
    """

    def __init__(self) -> None:
        self._is_output: dict[tuple[str, str], bool] = {}

    def is_own(self, uri: str) -> bool:
        """Whether a job wrote the image file."""
        for pattern, job, record in _PICTURES:
            found = pattern.fullmatch(uri)
            if found is not None and self._is_output_of(job, files.join(found[1], record)):
                return True
        return False

    def _is_output_of(self, job: str, record_uri: str) -> bool:
        key = job, record_uri
        if key not in self._is_output:
            if len(self._is_output) >= REMEMBERED_FOLDERS:
                self._is_output.clear()
            self._is_output[key] = _is_record_of(job, record_uri)
        return self._is_output[key]


def _is_record_of(job: str, uri: str) -> bool:
    try:
        record = files.read_json(uri)
    except InputError:  # none there, or a file of someone else
        return False
    return isinstance(record, dict) and record.get("job") == job and "agegender_version" in record
