"""Start of a predict run: for a local run, a scoring process is started while the driver imports its modules.

Both imports take about a second; one after the other they would double the wait.
"""

from typing import Any

from agegender.config import PredictConfig
from agegender.pipelines.engine import local
from agegender.pipelines.runtime.session import cluster_address


def may_be_local(config: PredictConfig) -> bool:
    """Whether a small run may be scored by local processes: no cluster, worker count or GPU was requested."""
    return cluster_address(config.address) is None and config.num_workers is None and not config.use_gpu


def launch_predict(config: PredictConfig) -> dict[str, Any]:
    """``run.run_predict`` with a faster start."""
    if may_be_local(config) and not config.dry_run:
        local.warm_up("agegender.pipelines.predict.worker", config.threads_per_worker)
    try:
        from agegender.pipelines.predict.run import run_predict

        return run_predict(config)
    finally:
        local.discard_warm()
