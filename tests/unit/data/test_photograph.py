import io

import numpy as np
import pytest
from PIL import Image

from agegender.data.alignment import FRAME_LANDMARKS, align, reduced
from agegender.data.face_geometry import apply, scaling
from agegender.data.faces import FaceFinder
from agegender.data.images import decode
from agegender.data.photograph import HALVED_FROM_PIXELS, Photograph, open_photograph
from agegender.schema import Status
from tests.support.corpus import picture
from tests.unit.data.test_faces import ColourDetector, with_squares

MAX_PIXELS = 10**8


def jpeg(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=95, exif=exif)
    return target.getvalue()


@pytest.fixture(scope="module")
def large() -> np.ndarray:
    return np.asarray(Image.fromarray(picture(240, 161)).resize((2400, 1611), Image.Resampling.BICUBIC))


def test_half_of_a_large_jpeg_is_decoded_and_the_whole_once_if_it_is_asked_for(large: np.ndarray) -> None:
    decoded, photo = open_photograph(jpeg(large), MAX_PIXELS, 0.4)
    assert photo is not None
    assert (decoded.width, decoded.height) == (photo.width, photo.height) == (2400, 1611)
    assert photo.at_least(0.5).shape == photo.reduced.shape == (806, 1200, 3)
    assert photo.is_decoded(0.5)
    assert not photo.is_decoded(0.51)
    whole = photo.at_least(0.51)
    assert whole.shape == (1611, 2400, 3)
    assert photo.is_decoded(1.0)
    assert photo.whole is whole
    assert photo.at_least(0.3) is photo.reduced


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_half_a_photograph_is_upright_and_has_the_size_of_the_whole(large: np.ndarray, orientation: int) -> None:
    data = jpeg(large, orientation)
    _, photo = open_photograph(data, MAX_PIXELS, 0.4)
    whole = decode(data, MAX_PIXELS).pixels
    assert photo is not None
    assert whole is not None
    assert (photo.height, photo.width) == whole.shape[:2]
    height, width = photo.reduced.shape[:2]
    wanted = np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BOX))
    assert np.abs(photo.reduced.astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("scale", [0.4, 1.0])
def test_nothing_is_halved_that_is_small_or_searched_at_more_than_half(large: np.ndarray, scale: float) -> None:
    small = large[: HALVED_FROM_PIXELS // 2400 - 1]
    _, photo = open_photograph(jpeg(small if scale < 1 else large), MAX_PIXELS, scale)
    assert photo is not None
    assert photo.reduced.shape[1] == photo.width == 2400
    assert photo.whole is photo.reduced


def test_an_image_that_cannot_be_decoded_is_no_photograph(large: np.ndarray) -> None:
    decoded, photo = open_photograph(jpeg(large)[:5000], MAX_PIXELS, 0.4)
    assert photo is None
    assert decoded.status is Status.TRUNCATED


def test_a_large_face_is_cut_out_of_half_the_pixels_and_a_small_one_out_of_all(large: np.ndarray) -> None:
    for side, is_whole in ((600, False), (150, True)):
        _, photo = open_photograph(jpeg(large), MAX_PIXELS, 0.4)
        assert photo is not None
        landmarks = apply(scaling(side, 700.0, 400.0), FRAME_LANDMARKS)
        crop = photo.align(landmarks, 120)
        assert photo.is_decoded(1.0) == is_whole
        assert np.abs(crop.astype(int) - align(photo.whole, landmarks, 120)).mean() < (0.01 if is_whole else 1)


def test_the_faces_of_half_a_photograph_are_those_of_the_whole() -> None:
    pixels = with_squares(4000, 3000, [(100, 100, 50), (2000, 300, 120), (700, 900, 700), (3800, 2700, 44)])
    _, photo = open_photograph(jpeg(pixels), MAX_PIXELS, FaceFinder(ColourDetector()).search_scale)
    assert photo is not None
    found, wanted = FaceFinder(ColourDetector()).find(photo), FaceFinder(ColourDetector()).find(Photograph(pixels))
    assert [face.width for face in found] == pytest.approx([face.width for face in wanted], rel=0.05)
    for face, other in zip(found, wanted, strict=True):
        assert face.centre == pytest.approx(other.centre, abs=0.05 * other.width)


@pytest.mark.parametrize("scale", [1.0, 0.7, 0.5, 0.31, 0.1])
def test_a_reduced_picture_is_the_mean_of_the_whole_in_each_place(large: np.ndarray, scale: float) -> None:
    small = reduced(large, scale)
    size = (round(2400 * scale), round(1611 * scale))
    assert small.shape == (size[1], size[0], 3)
    wanted = np.asarray(Image.fromarray(large).resize(size, Image.Resampling.BOX))
    assert np.abs(small.astype(int) - wanted).mean() < 2
