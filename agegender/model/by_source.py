"""The validation metrics of each source, from sums that the ranks add up."""

from typing import Any

import numpy as np

from agegender.model.batches import Integers, Samples
from agegender.model.trainer import Estimates, Tally, tally_errors

_METRICS = {
    "age_mae_years": "age_error_years",
    "age_mae_to_range_years": "years_to_range",
    "gender_accuracy": "gender_correct",
}
"""Metric -> what of ``tally_errors`` it is the mean of."""


def source_sums(estimates: Estimates, samples: Samples, rows: Integers, sources: int) -> list[float]:
    """What ``source_metrics`` takes, of some images; sums of several ranks can be added element by element.

    Args:
        estimates: for ``rows``, in their order.
        samples: with their sources.
        rows: int64[N].
        sources: how many there are.
    """
    if samples.sources is None:
        raise ValueError("the sources of the samples are not told apart")
    of_source = samples.sources[rows]
    flat: list[float] = []
    for source in range(sources):
        mine = np.flatnonzero(of_source == source)
        tally = Tally()
        tally_errors(tally, Estimates(*(column[mine] for column in estimates)), samples, rows[mine])
        flat += [float(len(mine))]
        flat += [sums.get(name, 0.0) for name in _METRICS.values() for sums in (tally.sums, tally.counts)]
    return flat


def source_metrics(sums: list[float], names: list[str]) -> dict[str, dict[str, Any]]:
    """``images`` and the metrics of each source; a metric is None where no image has its label.

    Args:
        sums: of all images, from ``source_sums``.
        names: of the sources.
    """
    table = np.array(sums).reshape(len(names), -1).tolist()
    return {
        name: {"images": round(images)}
        | {
            metric: total / count if count else None
            for metric, total, count in zip(_METRICS, pairs[::2], pairs[1::2], strict=True)
        }
        for name, (images, *pairs) in zip(names, table, strict=True)
    }
