"""``agegender.train``: train a model on labelled images; the result is an object."""

import json
import os
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from agegender.api.keywords import build_config, keywords_of
from agegender.api.results import Output, link, run_job, to_pandas, with_labels
from agegender.pipelines.runtime.session import set_quiet_defaults
from agegender.reports.notebook import result_html
from agegender.storage import files
from agegender.training_config import TrainConfig

if TYPE_CHECKING:
    import pandas as pd

    from agegender.api.sources import Source


@keywords_of(TrainConfig)
def train(source: "Source", *, output: str | os.PathLike[str], **options: Any) -> "TrainingRun":
    """Train the age and gender network on a labelled image set.

    The same job as ``agegender train``; the same call resumes an interrupted run from its last checkpoint.

    Args:
        source: what ``agegender.predict`` takes, with labels: in file names, or in the columns ``age_years`` and ``gender``
            of a table.
        output: folder or ``s3://`` prefix for the model and the other files of the run.
        **options: the flags of ``agegender train`` with ``_`` for ``-``, listed below; those of a group, such as
            ``augment``, as a dict.

    Returns:
        The address of the model, and the metrics of each epoch.

    Raises:
        ConfigError: an option is unknown or out of bounds, options are incompatible, or ``output`` holds another run.
        InputError: no labelled image or too few, or a model to start from that cannot be used.
        ResourceError: storage, disk or cluster failed; the same call resumes.

    Example:
        >>> run = agegender.train("UTKFace/", output="out/train", epochs=5, augment={"flip_probability": 0.5})
        >>> run.df[["epoch", "age_mae_years", "gender_accuracy"]]
        >>> agegender.predict("photos/", model=run.model)
    """
    config = build_config(TrainConfig, "train", {**options, "input": ["-"], "output": "-"})
    set_quiet_defaults()
    from agegender.pipelines.train.run import run_train  # takes seconds; a call with a wrong option fails before

    place = Output.at(output)
    _, summary = run_job(run_train, config, source, place, with_labels)
    return TrainingRun(place, summary)


_METRICS = (
    ("age MAE, val part", "age_mae_years", "{:.2f} years"),
    ("distance to the range of ages, val part", "age_mae_to_range_years", "{:.2f} years"),
    ("gender accuracy, val part", "gender_accuracy", "{:.1%}"),
)


class TrainingRun:
    """Result of ``agegender.train``.

    Attributes:
        output: folder or ``s3://`` prefix of the result.
        model: the model's folder in it, which ``predict``, ``evaluate`` and ``Scorer`` take.
        split: ``split.parquet``: which image is in which part, for ``evaluate(..., split=run.split)``.
        report: address of ``report.html``.
        summary: the closing summary: images per part, metrics of the last epoch, time.

    Example:
        >>> run = agegender.train("UTKFace/", output="out/train")
        >>> run.summary["age_mae_years"], run.metrics.column("val_loss")
    """

    def __init__(self, output: Output, summary: dict[str, Any]) -> None:
        layout = output.layout
        self.output = output.uri
        self.model, self.split, self.report = layout.model, layout.split, layout.report
        self.summary = summary
        self._metrics_uri = layout.history

    @cached_property
    def metrics(self) -> pa.Table:
        """One row per epoch: ``epoch``, losses, ``age_mae_years``, ``gender_accuracy``, ``seconds``, ..."""
        lines = files.read_bytes(self._metrics_uri).decode().splitlines()
        return pa.Table.from_pylist([json.loads(line) for line in lines])

    @cached_property
    def df(self) -> "pd.DataFrame":
        """``metrics`` as a pandas DataFrame."""
        return to_pandas(self.metrics)

    def __repr__(self) -> str:
        forms = (("age_mae_years", ".2f"), ("age_mae_to_range_years", ".2f"), ("gender_accuracy", ".3f"))
        known = [f"{key} {self.summary[key]:{form}}" for key, form in forms if self.summary[key] is not None]
        return (
            f"<TrainingRun: {self.summary['epochs']} epochs, {', '.join(known)} on the val part, model in {self.model}>"
        )

    def _repr_html_(self) -> str:
        summary = self.summary
        facts = [
            *((name, form.format(summary[key])) for name, key, form in _METRICS if summary[key] is not None),
            ("epochs", f"{summary['epochs']}"),
            ("training images", f"{summary['train_images']:,}"),
            ("time", f"{summary['training_s']:,.0f} s"),
            ("model", self.model),
        ]
        return result_html(f"model {summary['model_id']}", facts, report=self.report, link=link(self.report))
