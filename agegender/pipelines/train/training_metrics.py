"""What a training worker reports to Prometheus while it trains."""

import math
import time

from agegender.pipelines.runtime import metrics


class TrainingMetrics:
    """What the worker of one rank shows; its time is counted on each rank, for one that waits makes all others wait.

    Args:
        rank: of the worker; the state of the training is shown by rank 0 alone.
        waited_s: what ``show`` is to take for nothing: seconds that an earlier process waited.
    """

    def __init__(self, rank: int, waited_s: float) -> None:
        self._rank, self._waited_s, self._shown_s = rank, waited_s, time.monotonic()

    def show(self, epoch: int, step: int, loss: float, waited_s: float) -> None:
        """Show where training is, every half a second or so.

        Args:
            epoch: that is under way, from 0.
            step: since the beginning of the run.
            loss: of the last step; NaN before it.
            waited_s: seconds of this epoch without a batch to train on.
        """
        now_s = time.monotonic()
        waited_now_s = waited_s - self._waited_s if waited_s >= self._waited_s else waited_s  # else: another epoch
        metrics.count("agegender_worker_seconds_total", waited_now_s, "train", activity="wait")
        metrics.count("agegender_worker_seconds_total", now_s - self._shown_s - waited_now_s, "train", activity="train")
        self._waited_s, self._shown_s = waited_s, now_s
        if self._rank == 0:
            metrics.set_gauge("agegender_train_epoch", epoch + 1, "train")
            metrics.set_gauge("agegender_train_step", step, "train")
            if math.isfinite(loss):
                metrics.set_gauge("agegender_train_loss", loss, "train")
