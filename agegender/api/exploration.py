"""``agegender.eda``: describe an image set; the result is an object."""

import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from agegender.api.keywords import build_config, keywords_of
from agegender.api.results import Output, link, read_rows, run_job, to_pandas, with_labels
from agegender.config import EdaConfig
from agegender.pipelines.runtime.session import set_quiet_defaults
from agegender.reports.notebook import histogram_chart, result_html
from agegender.storage import files

if TYPE_CHECKING:
    import pandas as pd

    from agegender.api.sources import Source

TABLES = (
    "images", "ages", "age_groups", "gender_by_age_group", "sizes", "label_problems", "bad_files", "duplicates",
)  # fmt: skip
"""What eda writes to ``tables/``; docs/eda.md describes each."""


@keywords_of(EdaConfig)
def eda(source: "Source", *, output: str | os.PathLike[str] | None = None, **options: Any) -> "Exploration":
    """Describe an image set: counts, ages, genders, sizes, bad files, label problems, duplicates.

    The same job as ``agegender eda``.

    Args:
        source: what ``agegender.predict`` takes. Labels are in file names, or in the columns ``age_years`` and ``gender`` of
            a table.
        output: folder or ``s3://`` prefix for the tables and the report; None: a temporary folder, deleted with the object.
        **options: the flags of ``agegender eda`` with ``_`` for ``-``, listed below.

    Returns:
        The counts, the tables and the address of the report.

    Raises:
        ConfigError: an option is unknown or out of bounds, or ``output`` holds another run.
        InputError: no image, or a source in memory that cannot be used.
        ResourceError: storage or the cluster failed; with ``output`` the same call resumes.

    Example:
        >>> explored = agegender.eda("UTKFace/", output="out/eda")
        >>> explored.summary["by_status"], explored.report
        >>> explored.tables["duplicates"].to_pandas()
    """
    config = build_config(EdaConfig, "eda", {**options, "input": ["-"], "output": "-"})
    set_quiet_defaults()
    from agegender.pipelines.eda.run import run_eda  # takes a second; a call with a wrong option fails before

    place = Output.at(output)
    run_job(run_eda, config, source, place, with_labels)
    return Exploration(place)


class Exploration:
    """Result of ``agegender.eda``.

    Attributes:
        output: folder or ``s3://`` prefix of the result.
        report: address of ``report.html``.
        tables: name -> pyarrow.Table, read lazily: ``images`` (one row per image), ``ages``, ``age_groups``,
            ``gender_by_age_group``, ``sizes``, ``label_problems``, ``bad_files``, ``duplicates``.

    Example:
        >>> explored = agegender.eda("UTKFace/")
        >>> explored.df.groupby("status").size()
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self.output = output.uri
        self.report = output.layout.report
        self.tables: Mapping[str, pa.Table] = _Tables(output)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The content of ``summary.json``; docs/eda.md explains every key."""
        found: dict[str, Any] = files.read_json(self._output.layout.path("summary.json"))
        return found

    @cached_property
    def df(self) -> "pd.DataFrame":
        """The table ``images`` as a pandas DataFrame: one row per image."""
        return to_pandas(self.tables["images"])

    def __len__(self) -> int:
        """Number of images."""
        return int(self.summary["images"])

    def __repr__(self) -> str:
        counts = ", ".join(f"{n:,} {status}" for status, n in self.summary["by_status"].items())
        where = "a temporary folder" if self._output.is_temporary else self.output
        return f"<Exploration: {len(self):,} images ({counts}), {self.summary['labelled']:,} labelled, in {where}>"

    def _repr_html_(self) -> str:
        summary = self.summary
        facts = [("labelled", f"{summary['labelled']:,}")]
        facts += [(status, f"{n:,}") for status, n in summary["by_status"].items()]
        facts += [(gender, f"{n:,}") for gender, n in summary["by_gender"].items()]
        duplicates = summary["duplicates"].items()
        facts += [(f"groups of {kind} duplicates", f"{counts['groups']:,}") for kind, counts in duplicates]
        chart = histogram_chart({int(age): count for age, count in summary["by_age"].items()})
        title = f"{len(self):,} images"
        return result_html(
            title, facts, chart=chart, chart_title="images by age in years", report=self.report, link=link(self.report)
        )


class _Tables(Mapping[str, pa.Table]):
    """Tables by name, read lazily."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._read: dict[str, pa.Table] = {}

    def __getitem__(self, name: str) -> pa.Table:
        if name not in TABLES:
            raise KeyError(f"{name!r}; the tables are {', '.join(TABLES)}")
        if name not in self._read:
            layout = self._output.layout
            uri = layout.facts if name == "images" else layout.path("tables", f"{name}.parquet")
            self._read[name] = read_rows(uri)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)

    def __repr__(self) -> str:
        return f"<tables: {', '.join(TABLES)}>"
