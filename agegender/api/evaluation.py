"""``agegender.evaluate``: evaluate a trained model on labelled images; the result is an object."""

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from agegender.api.keywords import build_config, keywords_of
from agegender.api.results import Output, link, read_rows, run_job, to_pandas, with_labels
from agegender.config import RELEASED_MODEL, EvaluateConfig
from agegender.pipelines.runtime.session import set_quiet_defaults
from agegender.reports.notebook import result_html

if TYPE_CHECKING:
    import pandas as pd

    from agegender.api.sources import Source


@keywords_of(EvaluateConfig)
def evaluate(
    source: "Source",
    *,
    output: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] = RELEASED_MODEL,
    **options: Any,
) -> "Evaluation":
    """Evaluate a trained model on labelled images, overall and by age group, gender and race.

    The same job as ``agegender evaluate``.

    Args:
        source: what ``agegender.predict`` takes, with labels: in file names, or in the columns ``age_years`` and ``gender``
            of a table.
        output: folder or ``s3://`` prefix for the metrics and the report; None: a temporary folder, deleted with the object.
        model: ``"fast"``, ``"accurate"`` or ``"open"``, which come with the package; or the folder or ``s3://`` prefix
            of a trained model.
        **options: the flags of ``agegender evaluate`` with ``_`` for ``-``, listed below.

    Returns:
        The metrics with their confidence bounds, overall and by slice, and the row of each image.

    Raises:
        ConfigError: an option is unknown or out of bounds, or ``output`` holds another run.
        InputError: no labelled image, none in the part of ``split``, or no usable model.
        ResourceError: storage or the cluster failed; with ``output`` the same call resumes.

    Example:
        >>> measured = agegender.evaluate("UTKFace/", model=run.model, split=run.split)
        >>> measured.metrics["age_mae_years"]        # {"value": 5.1, "low": 4.9, "high": 5.3}
        >>> measured.slices.to_pandas().query("slice == 'gender'")
    """
    config = build_config(EvaluateConfig, "evaluate", {**options, "input": ["-"], "output": "-", "model": model})
    set_quiet_defaults()
    from agegender.pipelines.evaluate.run import run_evaluate  # takes a second; a call with a wrong option fails before

    place = Output.at(output)
    _, metrics = run_job(run_evaluate, config, source, place, with_labels)
    return Evaluation(place, metrics)


class Evaluation:
    """Result of ``agegender.evaluate``.

    Attributes:
        output: folder or ``s3://`` prefix of the result.
        metrics: the content of ``metrics.json``; docs/evaluation.md explains every key.
        report: address of ``report.html``.

    Example:
        >>> measured = agegender.evaluate("UTKFace/")
        >>> measured.metrics["gender_accuracy"]["value"], len(measured)
    """

    def __init__(self, output: Output, metrics: dict[str, Any]) -> None:
        self._output = output
        self.output = output.uri
        self.metrics = metrics
        self.report = output.layout.report

    @cached_property
    def slices(self) -> pa.Table:
        """The metrics by age group, gender, race and their intersections, with bounds."""
        return read_rows(self._output.layout.path("slices.parquet"))

    @cached_property
    def table(self) -> pa.Table:
        """One row per image: the columns of predict, then ``true_age_years``, ``true_gender``, ..."""
        return read_rows(self._output.layout.predictions)

    @cached_property
    def df(self) -> "pd.DataFrame":
        """``table`` as a pandas DataFrame."""
        return to_pandas(self.table)

    def __len__(self) -> int:
        """Number of evaluated images."""
        return int(self.metrics["n"])

    def __repr__(self) -> str:
        where = "a temporary folder" if self._output.is_temporary else self.output
        return (
            f"<Evaluation: {len(self):,} images, {', '.join(f'{k} {v}' for k, v in self._metric_items())}, in {where}>"
        )

    def _repr_html_(self) -> str:
        facts = self._metric_items()
        seen = self.metrics["seen_in_training"]["images"]
        if seen:
            facts.append(
                ("data leakage", f"the model was trained on {seen:,} of these images: the metrics are optimistic")
            )
        title = f"{len(self):,} labelled images, with 95 % bounds"
        return result_html(title, facts, report=self.report, link=link(self.report))

    def _metric_items(self) -> list[tuple[str, str]]:
        shown: tuple[tuple[str, str, str], ...] = (
            ("age MAE", "age_mae_years", "{:.2f} years"),
            ("age bias", "age_bias_years", "{:+.2f} years"),
            ("gender accuracy", "gender_accuracy", "{:.1%}"),
            ("interval coverage", "interval_coverage", "{:.1%}"),
        )
        if self.metrics["n_age_range"]:
            shown = (*shown, *_RANGES) if self.metrics["n_age"] else (*_RANGES, shown[2])
        return [(name, _bounded(self.metrics[key], form)) for name, key, form in shown]


_RANGES = (
    ("age in the labelled range", "age_in_range", "{:.1%}"),
    ("distance to the range", "age_mae_to_range_years", "{:.2f} years"),
)


def _bounded(metric: dict[str, float | None], form: str) -> str:
    if metric["value"] is None:
        return "not labelled"
    low, high = (form.format(metric[end]).removesuffix(" years") for end in ("low", "high"))
    return f"{form.format(metric['value'])} ({low} to {high})"
