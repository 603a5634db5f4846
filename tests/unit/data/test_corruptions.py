import numpy as np
import pytest

from agegender.data.corruptions import CORRUPTIONS, with_face_px
from agegender.data.synthetic import draw_face


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return draw_face(40.0, 1, 3, 112)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_changes_the_face_keeps_its_shape_and_gives_the_same_again(name: str, face: np.ndarray) -> None:
    before = face.copy()
    worse = CORRUPTIONS[name].apply(face)
    assert worse.shape == face.shape and worse.dtype == np.uint8
    assert np.abs(worse.astype(int) - face).mean() > 0.5
    assert np.array_equal(worse, CORRUPTIONS[name].apply(face.copy()))
    assert np.array_equal(face, before)


def test_each_is_what_its_description_says(face: np.ndarray) -> None:
    assert len({corruption.what for corruption in CORRUPTIONS.values()}) == len(CORRUPTIONS)
    assert CORRUPTIONS["darkness"].apply(face).mean() == pytest.approx(0.3 * face.mean(), abs=0.5)
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert CORRUPTIONS["noise"].apply(grey).std() == pytest.approx(25, abs=1)
    edge = np.zeros((100, 100, 3), np.uint8)
    edge[:, 50:] = 255
    blurred = CORRUPTIONS["blur"].apply(edge)[50, :, 0].astype(int)
    # at one sigma, 2 px, a Gaussian edge has 84 % of its height
    assert np.interp(51.5, np.arange(100), blurred) / 255 == pytest.approx(0.84, abs=0.02)


def test_a_small_face_has_the_pixels_of_its_size(face: np.ndarray) -> None:
    sizes = [corruption.face_px for name, corruption in CORRUPTIONS.items() if name.startswith("face_")]
    assert sizes == [20, 24, 32, 48]
    blurred = [np.abs(with_face_px(face, px).astype(int) - face).mean() for px in (*sizes, 94.1)]
    assert blurred == sorted(blurred, reverse=True) and blurred[-1] == 0
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert np.array_equal(with_face_px(grey, 20), grey)
    # a face of 21 px is 0.84 of 25 px: a crop of 100 px becomes 25 blocks of 4
    lines = np.zeros((100, 100, 3), np.uint8)
    lines[:, ::4] = 255
    assert np.ptp(with_face_px(lines, 21)) == 0
