"""Shared by all results: the output folder of a job, and running a job with a temporary one."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from agegender.api.sources import PreparedSource, prepare_source
from agegender.errors import ConfigError
from agegender.option_groups import InputOptions
from agegender.pipelines.runtime.layout import OutputLayout
from agegender.storage import files

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.dataset as pads

    from agegender.api.sources import Source

ConfigT = TypeVar("ConfigT", bound=InputOptions)


@dataclass(eq=False)
class Output:
    """OUTPUT of a run: given by the caller, or a temporary folder that is deleted with the last reference to this object."""

    uri: str
    is_temporary: bool = False
    _finalizer: Any = field(init=False, repr=False, default=None)

    @classmethod
    def at(cls, given: "str | os.PathLike[str] | None") -> "Output":
        """The caller's address, made absolute; a new temporary folder for None."""
        if given is not None:
            return cls(files.absolute(os.fspath(given)))
        output = cls(tempfile.mkdtemp(prefix="agegender-"), is_temporary=True)
        output._finalizer = weakref.finalize(output, _remove, output.uri, os.getpid())
        return output

    def remove(self) -> None:
        """Delete a temporary folder now; a folder of the caller is kept."""
        if self._finalizer is not None:
            self._finalizer()

    @property
    def layout(self) -> OutputLayout:
        """The addresses under OUTPUT."""
        return OutputLayout(self.uri)


def _remove(folder: str, pid: int) -> None:
    if os.getpid() == pid:  # a forked process has a copy of the object, and must not delete its parent's folder
        shutil.rmtree(folder, ignore_errors=True)


def run_job(
    job: Callable[[ConfigT], dict[str, Any]],
    config: ConfigT,
    source: "Source",
    output: Output,
    adapt: Callable[[ConfigT, PreparedSource], dict[str, Any]],
    *,
    rename: bool = False,
) -> tuple[ConfigT, dict[str, Any]]:
    """Make a source readable and run a job on it; clean up if the job refuses its config.

    Args:
        job: takes the config, returns its closing summary.
        config: of the job, without input and output.
        source: given by the caller.
        output: of the job.
        adapt: gives the config values that depend on the source.
        rename: see ``prepare_source``.

    Returns:
        The config as it was run, and the summary.
    """
    columns = {"uri_column": config.uri_column, "bytes_column": config.bytes_column}
    written = None
    try:
        prepared = prepare_source(source, output.uri, **columns, rename=rename)
        written = prepared.written
        changes = {"input": prepared.addresses, "output": output.uri, **adapt(config, prepared)}
        config = config.model_copy(update=changes)
        return config, job(config)
    except ConfigError:
        if written is not None:
            files.delete(written)  # OUTPUT belongs to another run, which does not use this file
        output.remove()
        raise
    except BaseException:
        output.remove()
        raise


def with_labels(config: InputOptions, source: PreparedSource) -> dict[str, Any]:
    """Read no labels for images without names, unless the caller gives ``labels``."""
    return {"labels": ["none"]} if not source.names_its_images and "labels" not in config.model_fields_set else {}


def read_rows(folder: str, columns: list[str] | None = None) -> pa.Table:
    """All rows of the Parquet files in a folder or of one file, local or on S3."""
    return dataset(folder).to_table(columns=columns)


def dataset(folder: str) -> "pads.Dataset":
    """The Parquet files of a folder as an Arrow dataset, which reads them in batches."""
    import pyarrow.dataset as pads  # lazy: imports delay predict's first row

    filesystem, path = files.arrow_filesystem(folder)
    return pads.dataset(path, filesystem=filesystem, format="parquet")


def to_pandas(table: pa.Table) -> "pd.DataFrame":
    """Convert to pandas; dictionary columns become categories."""
    frame: pd.DataFrame = table.to_pandas()
    return frame


def link(uri: str) -> str | None:
    """A relative link that a notebook's server can serve; None if the address is outside of the working directory."""
    if files.is_s3(uri):
        return None
    path = Path(uri)
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else None
