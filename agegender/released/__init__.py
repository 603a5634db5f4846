"""The models that come with the package, by name: NAME/model, its card and its terms beside it.

An installation may lack some of them: the wheel leaves out what would make it too large.
"""

from pathlib import Path

from agegender.config import RELEASED_MODEL, RELEASED_MODELS


def folder(name: str) -> Path:
    """The model folder of a name of ``RELEASED_MODELS``, as ``train`` writes it; it may be absent."""
    return Path(__file__).parent / name / "model"


def installed() -> tuple[str, ...]:
    """The names whose model is in this installation."""
    return tuple(name for name in RELEASED_MODELS if folder(name).is_dir())


FOLDER = folder(RELEASED_MODEL)
"""That of the default."""
