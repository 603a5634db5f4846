"""Start of a predict run: a process that scores begins to import while this one does, where no cluster is needed.

Its imports take about as long as the driver's, a second, so that one after the other they would double the wait.
"""

from typing import Any

from agegender.config import PredictConfig
from agegender.pipelines.engine import local
from agegender.pipelines.runtime.session import cluster_address


def may_be_local(config: PredictConfig) -> bool:
    """Whether processes of this machine score where images are few: no cluster, worker count or GPU was asked for."""
    return cluster_address(config.address) is None and config.num_workers is None and not config.use_gpu


def launch_predict(config: PredictConfig) -> dict[str, Any]:
    """``run.run_predict``, started sooner."""
    if may_be_local(config) and not config.dry_run:
        local.warm_up("agegender.pipelines.predict.worker", config.threads_per_worker)
    try:
        from agegender.pipelines.predict.run import run_predict

        return run_predict(config)
    finally:
        local.discard_warm()
