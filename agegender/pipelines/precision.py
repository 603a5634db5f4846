"""In which precision a job scores: settled before anything is scored, and kept for all of the run."""

from agegender.config import EvaluateConfig, PredictConfig
from agegender.errors import ConfigError
from agegender.options import Precision
from agegender.pipelines.record import read_record
from agegender.pipelines.session import cluster_address


def settled_precision(config: PredictConfig | EvaluateConfig, job: str) -> Precision:
    """What ``precision`` comes to.

    Args:
        config: with the address of OUTPUT.
        job: name of the job.

    Raises:
        ConfigError: float32 is asked for, and GPUs.
    """
    if isinstance(config, PredictConfig) and config.use_gpu:
        if config.precision == "float32":
            raise ConfigError("--precision float32: GPUs score in bfloat16. Leave it out, or leave --use-gpu out")
        return "bfloat16"
    if config.precision != "auto":
        return config.precision
    earlier = read_record(config.output, job)
    if earlier is not None:
        return "bfloat16" if earlier.get("identity", {}).get("precision") == "bfloat16" else "float32"
    if cluster_address(config.address) is not None:
        return "float32"  # nobody knows which CPUs will come, and rows are to be the same on all of them
    from agegender.scoring.bfloat16 import cpu_has_bfloat16  # half a second that nobody else need wait

    return "bfloat16" if cpu_has_bfloat16() else "float32"
