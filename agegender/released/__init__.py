"""The model that comes with the package, for research use: what it is, and is not for, says MODEL_CARD.md beside it."""

from pathlib import Path

FOLDER = Path(__file__).parent / "model"
"""A model folder as ``train`` writes it."""
