"""Estimates apparent age and gender from face images at archive scale, on Ray.

    import agegender

    faces = agegender.predict("photos/")
    faces.df

Everything in ``__all__`` is loaded when it is first used: ``import agegender`` alone loads neither Ray nor torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agegender.api.evaluation import evaluate
    from agegender.api.exploration import eda
    from agegender.api.faces import predict
    from agegender.api.training import train
    from agegender.pipelines.engine.batch_scorer import Decoder, Scorer
    from agegender.pipelines.source.datasource import read

__version__ = "0.1.0"

# Nothing reports home unless the user's environment says so. ONNX Runtime reads this when it is loaded, Ray when it starts.
for _variable, _value in {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}.items():
    os.environ.setdefault(_variable, _value)

__all__ = ["Decoder", "Scorer", "__version__", "eda", "evaluate", "predict", "read", "train"]

_HOMES = {
    "predict": "agegender.api.faces",
    "eda": "agegender.api.exploration",
    "train": "agegender.api.training",
    "evaluate": "agegender.api.evaluation",
    "read": "agegender.pipelines.source.datasource",
    "Scorer": "agegender.pipelines.engine.batch_scorer",
    "Decoder": "agegender.pipelines.engine.batch_scorer",
}
"""Public name -> the module that has it."""


if not TYPE_CHECKING:  # a type checker is to know the names above, and that there are no others

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
