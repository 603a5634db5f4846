"""What the released model says of small faces, on images that it has not seen. Skips without UTKFace."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from agegender import released
from agegender.artifact import image_keys
from agegender.data.corruptions import CORRUPTIONS
from agegender.data.images import decode, resize
from agegender.data.labels import from_filename
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.load import open_model, training_images
from agegender.scoring.predictions import for_face_sizes

IMAGES = 1200
"""The calibration error of fewer is larger by chance: at 24 px 0.018 of all 1,899, on average 0.021 of 1,200, 0.028 of 600."""

UTKFACE = Path(os.environ.get("AGEGENDER_UTKFACE", Path(__file__).parents[2] / "../shared/data/utkface"))


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops as the network takes them, ages and genders: the first images, by content, that the model has not seen."""
    if not UTKFACE.is_dir():
        pytest.skip(f"AGEGENDER_UTKFACE: no folder {UTKFACE}")
    side_px = open_model(released.FOLDER).network.image_size_px
    by_content = {hashlib.sha256(path.read_bytes()).digest(): path for path in sorted(UTKFACE.glob("*.jpg"))}
    seen = np.isin(image_keys(by_content), training_images(released.FOLDER))
    crops: list[np.ndarray] = []
    ages: list[float] = []
    genders: list[int] = []
    for _, path in sorted(item for item, known in zip(by_content.items(), seen, strict=True) if not known):
        label = from_filename(path.name)
        pixels = decode(path.read_bytes(), 10**6).pixels
        if label.age_years is not None and label.gender is not None and pixels is not None and len(crops) < IMAGES:
            crops.append(resize(pixels, side_px))
            ages.append(label.age_years)
            genders.append(label.gender)
    assert len(crops) == IMAGES
    return np.stack(crops), np.array(ages), np.array(genders)


def test_the_released_model_knows_what_small_faces_are_worth(
    held_out: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    crops, ages, genders = held_out
    scorer = CpuScorer(released.FOLDER, threads=2)
    widths, certainties = [], []
    for px in (20, 24, 32, 48):
        small = CORRUPTIONS[f"face_{px}_px"]
        plain = scorer.score(np.stack([small.apply(crop) for crop in crops]))
        sized = for_face_sizes(plain, np.full(IMAGES, small.face_px), scorer.info.calibration)
        covered = np.mean((ages >= sized.age_low_years) & (ages <= sized.age_high_years))
        assert 0.85 <= covered <= 0.95, f"{px} px"
        without = np.mean((ages >= plain.age_low_years) & (ages <= plain.age_high_years))
        errors = [calibration_error(each.female_probability, genders) for each in (sized, plain)]
        assert errors[0] <= 0.03, f"{px} px"
        if px <= 24:  # from 32 on, there is little that the table could make better
            assert abs(covered - 0.9) < abs(without - 0.9), (
                f"{px} px: nearer to what is promised than without the table"
            )
            assert errors[0] < errors[1], f"{px} px"
        widths.append(np.mean(sized.age_high_years - sized.age_low_years))
        certainties.append(np.mean(np.maximum(sized.female_probability, 1 - sized.female_probability)))
    assert widths == sorted(widths, reverse=True) and widths[0] > 1.1 * widths[-1]
    assert certainties == sorted(certainties)


def calibration_error(female: np.ndarray, gender: np.ndarray) -> float:
    """Of 15 bins of equal size."""
    bins = np.array_split(np.argsort(female, kind="stable"), 15)
    return float(sum(abs(female[part].mean() - gender[part].mean()) * part.size for part in bins) / gender.size)
