"""What a training worker reports to Prometheus while it trains."""

import math
import time

from agegender.pipelines.runtime import metrics


class TrainingMetrics:
    """Prometheus metrics of one rank. Each rank counts its time, because one that waits makes all others wait.

    Args:
        rank: of the worker; only rank 0 sets the gauges of epoch, step and loss.
        waited_s: seconds that an earlier process waited, which are not counted again.
    """

    def __init__(self, rank: int, waited_s: float) -> None:
        self._rank, self._waited_s, self._recorded_s = rank, waited_s, time.monotonic()

    def record(self, epoch: int, step: int, loss: float, waited_s: float) -> None:
        """Record the progress of training; called about twice a second.

        Args:
            epoch: current one, from 0.
            step: steps since the start of the run.
            loss: of the last step; NaN before the first.
            waited_s: seconds of this epoch spent waiting for data.
        """
        now_s = time.monotonic()
        waited_now_s = waited_s - self._waited_s if waited_s >= self._waited_s else waited_s  # else: a new epoch began
        metrics.count("agegender_worker_seconds_total", waited_now_s, "train", activity="wait")
        metrics.count(
            "agegender_worker_seconds_total", now_s - self._recorded_s - waited_now_s, "train", activity="train"
        )
        self._waited_s, self._recorded_s = waited_s, now_s
        if self._rank == 0:
            metrics.set_gauge("agegender_train_epoch", epoch + 1, "train")
            metrics.set_gauge("agegender_train_step", step, "train")
            if math.isfinite(loss):
                metrics.set_gauge("agegender_train_loss", loss, "train")
