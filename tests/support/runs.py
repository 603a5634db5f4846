"""A job that runs beside a test, which reads its log as it comes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset

from agegender.storage import files
from tests.support.processes import kill_with_all_children

TIMEOUT_S = 400

PROGRAM = """
import sys
from agegender.cli import main
{before}
sys.exit(main(sys.argv[1:]))
"""


class Run:
    """``agegender ARGUMENTS`` as a process of its own, in which ``before`` is executed first."""

    def __init__(self, arguments: list[str], variables: Mapping[str, str], before: str) -> None:
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(before=before), *arguments],
            env={**kept, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[tuple[float, str]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.append((time.monotonic(), line))

    @property
    def log(self) -> str:
        return "".join(line for _, line in self._lines)

    def said(self, words: str) -> float | None:
        """When it said that first, by ``time.monotonic``."""
        return next((at_s for at_s, line in list(self._lines) if words in line), None)

    def wait_for(self, words: str) -> float:
        """Wait until its log says that; returns when it did, by ``time.monotonic``."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while (at_s := self.said(words)) is None:
            assert self.process.poll() is None, f"ended with {self.process.poll()} without {words!r}:\n{self.log}"
            assert time.monotonic() < deadline_s, f"not within {TIMEOUT_S} s: {words!r}\n{self.log}"
            time.sleep(0.05)
        return at_s

    def wait_for_units(self, output: Path, count: int) -> None:
        """Wait until so many units are scored."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while len(units_scored(output)) < count:
            assert self.process.poll() is None, f"ended with {self.process.poll()}:\n{self.log}"
            assert time.monotonic() < deadline_s, f"not within {TIMEOUT_S} s: {count} units\n{self.log}"
            time.sleep(0.02)

    def end(self) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait(TIMEOUT_S)
        self._reader.join(10)
        return code


@contextmanager
def started(arguments: list[str], variables: Mapping[str, str] | None = None, before: str = "") -> Iterator[Run]:
    """A run that is killed with all of its processes where the test ends before it."""
    run = Run(arguments, variables or {}, before)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            kill_with_all_children(run.process)


def predict_flags(source: Path, model: Path, output: Path, *more: str) -> list[str]:
    common = ["--input", str(source), "--model", str(model), "--output", str(output), "--faces", "none"]
    return ["predict", *common, "--unit-images", "8", *more]


def units_scored(output: Path) -> list[Path]:
    """The counts of the units that are scored and in no part yet, in the order in which they were written."""
    return sorted(output.glob("_work/scored/*.json"), key=lambda path: path.stat().st_mtime)


def rows_of(output: Path | str) -> pa.Table:
    """The table in OUTPUT, local or on S3, sorted."""
    filesystem, path = files.arrow_filesystem(str(output))
    table = pyarrow.dataset.dataset(path, filesystem=filesystem, format="parquet").to_table()
    return table.sort_by([("uri", "ascending"), ("face_index", "ascending")])
