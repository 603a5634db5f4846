"""Drawn faces with UTKFace's names, and how one says that nothing of an image is varied."""

from pathlib import Path

from agegender.data.synthetic import draw_sample
from agegender.recipe import Augmentation
from agegender.storage import files

UNVARIED = Augmentation(
    flip_probability=0,
    rotation_degrees=0,
    zoom_min=1,
    zoom_max=1,
    shift_fraction=0,
    brightness=0,
    contrast=0,
    darkness_probability=0,
    noise_probability=0,
    low_resolution_probability=0,
    erase_probability=0,
)


def write_faces(folder: Path | str, count: int, seed: int = 3, size_px: int = 48) -> None:
    """``count`` faces into a folder, which is made, or under an s3:// prefix."""
    for index in range(count):
        name, data = draw_sample(index, seed, size_px)
        files.write_bytes(files.join(str(folder), name), data)
