"""The model that comes with the package, for research use; see MODEL_CARD.md for its intended use and limits."""

from pathlib import Path

FOLDER = Path(__file__).parent / "model"
"""A model folder as ``train`` writes it."""
