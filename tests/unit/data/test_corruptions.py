import numpy as np
import pytest

from agegender.data.corruptions import CORRUPTIONS, DESCRIPTIONS
from agegender.data.synthetic import draw_face


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    return draw_face(40.0, 1, 3, 112)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_changes_the_face_keeps_its_shape_and_gives_the_same_again(name: str, face: np.ndarray) -> None:
    before = face.copy()
    worse = CORRUPTIONS[name](face)
    assert worse.shape == face.shape and worse.dtype == np.uint8
    assert np.abs(worse.astype(int) - face).mean() > 0.5
    assert np.array_equal(worse, CORRUPTIONS[name](face.copy()))
    assert np.array_equal(face, before)


def test_each_is_what_its_description_says(face: np.ndarray) -> None:
    assert CORRUPTIONS.keys() == DESCRIPTIONS.keys()
    assert CORRUPTIONS["darkness"](face).mean() == pytest.approx(0.3 * face.mean(), abs=0.5)
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert CORRUPTIONS["noise"](grey).std() == pytest.approx(25, abs=1)
    assert np.array_equal(CORRUPTIONS["source_64_px"](grey), grey)
    edge = np.zeros((100, 100, 3), np.uint8)
    edge[:, 50:] = 255
    blurred = CORRUPTIONS["blur"](edge)[50, :, 0].astype(int)
    # at one sigma, 2 px, a Gaussian edge has 84 % of its height
    assert np.interp(51.5, np.arange(100), blurred) / 255 == pytest.approx(0.84, abs=0.02)
