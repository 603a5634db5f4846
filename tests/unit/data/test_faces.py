from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest

from agegender.data.alignment import CANONICAL_LANDMARKS, FRAME_LANDMARKS, align, warp
from agegender.data.detectors import YuNetDetector
from agegender.data.face_geometry import Face, apply, inverse, scaling, similarity
from agegender.data.faces import MAX_TILE_PX, REFINE_SIDE_PX, VOTE_SIDE_PX, FaceFinder
from agegender.data.images import resize
from agegender.errors import InputError
from tests.support.corpus import picture


def turned(degrees: float, side_px: float, x: float, y: float) -> np.ndarray:
    """From the unit square to a square of the given side whose centre is at (x, y)."""
    angle = np.radians(degrees)
    linear = side_px * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.hstack([linear, (np.array([x, y]) - linear @ [0.5, 0.5])[:, None]])


@dataclass
class ColourDetector:
    """A detector of its own kind: each pure red blob is a face, found only where it measures 8 to 400 pixels."""

    name: str = "colour"
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def detect(self, pixels: np.ndarray, min_score: float) -> Sequence[Face]:  # noqa: ARG002  # the protocol's
        self.sizes.append(pixels.shape[:2])
        red = ((pixels[..., 0] > 200) & (pixels[..., 1] < 60)).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(red)
        faces = []
        for x, y, width, height, area in stats[1:].tolist():
            if min(width, height) >= 8 and max(width, height) <= 400 and area > 0.5 * width * height:
                landmarks = CANONICAL_LANDMARKS * [width, height] + [x, y]
                faces.append(Face(x, y, width, height, 0.9, landmarks))
        return faces


def with_squares(width: int, height: int, squares: list[tuple[int, int, int]]) -> np.ndarray:
    pixels = np.full((height, width, 3), 90, np.uint8)
    for x, y, side in squares:
        pixels[y : y + side, x : x + side] = (255, 0, 0)
    return pixels


def test_an_upright_crop_is_aligned_to_what_resizing_gives() -> None:
    pixels = picture(200, 200)
    aligned = align(pixels, FRAME_LANDMARKS * 200, 96)
    assert np.abs(aligned.astype(int) - resize(pixels, 96)).max() <= 2


@pytest.mark.parametrize("degrees", [-30, 0, 25])
@pytest.mark.parametrize("side_px", [60, 200, 700])
def test_a_crop_pasted_turned_and_scaled_comes_back_as_it_was(degrees: float, side_px: int) -> None:
    crop = picture(200, 200)
    place = turned(degrees, side_px, 610, 590)
    large = cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA if side_px < 200 else cv2.INTER_LINEAR)
    pasted = np.full((1200, 1300, 3), 128, np.uint8)
    matrix = place @ np.vstack([scaling(1 / side_px), [0, 0, 1]])
    centred = matrix.copy()
    centred[:, 2] = apply(matrix, np.array([[0.5, 0.5]]))[0] - 0.5
    cv2.warpAffine(large, centred, (1300, 1200), pasted, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
    back = align(pasted, apply(place, FRAME_LANDMARKS), 96)
    inner = (slice(6, -6), slice(6, -6))
    assert np.abs(back[inner].astype(int) - resize(crop, 96)[inner]).mean() < 2


def test_a_large_face_is_averaged_not_sampled() -> None:
    stripes = np.zeros((960, 960, 3), np.uint8)
    stripes[:, ::2] = 255
    aligned = align(stripes, FRAME_LANDMARKS * 960, 96)
    assert np.abs(aligned[4:-4, 4:-4].astype(int) - 127).max() <= 3


def test_beyond_the_edge_of_the_picture_it_is_mirrored() -> None:
    pixels = picture(100, 100)
    aligned = align(pixels, FRAME_LANDMARKS * 100 - [50, 0], 64)
    assert np.abs(aligned[:, :32].astype(int) - aligned[:, 63:31:-1]).max() <= 2


def test_landmarks_in_one_place_give_a_black_crop_not_an_error() -> None:
    assert (align(picture(64, 64), np.full((5, 2), 20.0), 32) == 0).all()


def test_a_picture_wider_than_opencv_warps_is_no_obstacle() -> None:
    pixels = with_squares(40_000, 60, [(39_900, 10, 40)])
    matrix = similarity(np.array([[39_900.0, 10.0], [39_940.0, 50.0]]), np.array([[0.0, 0.0], [32.0, 32.0]]))
    assert matrix is not None
    assert (warp(pixels, matrix, 32)[2:-2, 2:-2] == (255, 0, 0)).all()


def test_faces_of_every_size_are_found_once_and_the_large_image_is_never_searched_whole() -> None:
    squares = [(100, 100, 50), (2000, 300, 120), (700, 900, 700), (3800, 2700, 44), (2300, 2290, 300)]
    detector = ColourDetector()
    found = FaceFinder(detector).find(with_squares(4000, 3000, squares))
    assert [round(face.width / 10) * 10 for face in found] == pytest.approx([700, 300, 120, 50, 44], rel=0.1)
    for face, (x, y, side) in zip(found, sorted(squares, key=lambda square: -square[2]), strict=True):
        assert face.centre == pytest.approx([x + side / 2, y + side / 2], abs=0.05 * side)
    assert max(max(size) for size in detector.sizes) <= MAX_TILE_PX


def test_small_faces_and_the_smallest_of_many_can_be_left_out() -> None:
    pixels = with_squares(800, 600, [(10, 10, 60), (200, 10, 90), (500, 10, 20)])
    widths = lambda **options: [round(face.width, -1) for face in FaceFinder(ColourDetector(), **options).find(pixels)]  # noqa: E731
    assert widths() == [90, 60]
    assert widths(min_face_px=16) == [90, 60, 20]
    assert widths(max_faces=1) == [90]


def test_no_face_in_pictures_of_any_shape() -> None:
    for height, width in [(1, 1), (1, 3000), (2500, 2), (64, 64)]:
        assert FaceFinder(ColourDetector()).find(np.full((height, width, 3), 90, np.uint8)) == []


def test_a_file_that_is_no_detector_is_named_so() -> None:
    with pytest.raises(InputError, match="--detector-model"):
        YuNetDetector(b"not a network")


def test_the_transform_back_is_the_transform_back() -> None:
    matrix = turned(17, 80, 20, 30)
    points = np.random.default_rng(0).random((10, 2))
    assert apply(inverse(matrix), apply(matrix, points)) == pytest.approx(points)


@dataclass
class UprightDetector:
    """As YuNet: finds red squares however they are turned, and takes all for upright; sure only of those whose top is yellow."""

    name: str = "upright"
    sizes: list[tuple[int, int]] = field(default_factory=list)

    def detect(self, pixels: np.ndarray, min_score: float) -> Sequence[Face]:
        self.sizes.append(pixels.shape[:2])
        found = []
        for face in ColourDetector().detect(np.where(pixels > 150, pixels, 0) * [1, 0, 0], min_score):
            x, y, width, height = (int(value) for value in (face.x, face.y, face.width, face.height))
            top = pixels[y : y + height // 4, x + width // 4 : x + width - width // 4]
            score = 0.94 if (top[..., 1] > 150).mean() > 0.8 else 0.85
            found.append(Face(face.x, face.y, face.width, face.height, score, face.landmarks))
        return found


def with_yellow_tops(squares: list[tuple[int, int, int]]) -> np.ndarray:
    pixels = with_squares(800, 600, squares)
    for x, y, side in squares:
        pixels[y : y + side // 3, x : x + side, 1] = 255
    return pixels


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_face_is_straightened_whichever_way_up_the_photograph_is(quarters: int) -> None:
    upright = with_yellow_tops([(100, 100, 60), (400, 200, 120)])
    found = FaceFinder(UprightDetector()).find(np.ascontiguousarray(np.rot90(upright, -quarters)))
    assert [round(face.width, -1) for face in found] == [120, 60]
    for face in found:
        assert (face.roll_degrees - 90 * quarters + 180) % 360 - 180 == pytest.approx(0, abs=5)


def test_the_score_of_another_direction_is_kept_where_the_first_look_leaves_doubt() -> None:
    (sure,) = FaceFinder(UprightDetector()).find(with_yellow_tops([(400, 200, 120)]))
    (doubtful,) = FaceFinder(UprightDetector()).find(with_squares(800, 600, [(400, 200, 120)]))
    assert (sure.score, sure.direction_margin) == (0.94, None)
    assert (doubtful.score, doubtful.direction_margin) == (0.85, 0)


def test_an_upright_photograph_is_searched_once_and_a_turned_one_once_more() -> None:
    picture = with_yellow_tops([(100, 100, 110), (400, 200, 150)])
    assert [searches(np.rot90(picture, quarters)) for quarters in (0, 2)] == [1, 2]


def test_a_photograph_with_a_small_face_is_searched_once_more_thoroughly() -> None:
    large, small = (100, 100, 110), (500, 300, 40)
    assert [searches(with_yellow_tops(squares)) for squares in ([large], [large, small])] == [1, 2]


def searches(picture: np.ndarray) -> int:
    """How often a picture was searched, looks at candidates left out."""
    detector = UprightDetector()
    FaceFinder(detector).find(np.ascontiguousarray(picture))
    looks = {(REFINE_SIDE_PX, REFINE_SIDE_PX), (VOTE_SIDE_PX, VOTE_SIDE_PX)}
    return len([size for size in detector.sizes if size not in looks])


def test_the_face_of_each_given_box_is_found_in_it_whatever_its_size_and_nowhere_else() -> None:
    pixels = with_squares(1600, 1200, [(100, 100, 24), (600, 200, 400), (1590, 600, 10)])
    tight, loose, cut = (100, 100, 24, 24), (500, 100, 650, 600), (560, 160, 200, 440)
    beside, empty, at_the_edge, around_two = (
        (130, 100, 24, 24),
        (10, 900, 80, 80),
        (1580, 590, 60, 40),
        (0, 0, 1600, 1200),
    )
    boxes = [tight, loose, cut, beside, empty, at_the_edge, around_two, tight]
    found = FaceFinder(ColourDetector()).find_in(pixels, boxes)
    widths = [None if face is None else round(face.width / 10) * 10 for face in found]
    assert widths == [20, 400, None, None, None, 10, 400, 20]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_the_face_of_a_given_box_is_straightened_too(quarters: int) -> None:
    turned = np.ascontiguousarray(np.rot90(with_yellow_tops([(100, 100, 60)]), -quarters))
    (face,) = FaceFinder(UprightDetector()).find(turned)
    (again,) = FaceFinder(UprightDetector()).find_in(turned, [(face.x, face.y, face.width, face.height)])
    assert again is not None
    assert again.centre == pytest.approx(face.centre, abs=3)
    assert (again.roll_degrees - 90 * quarters + 180) % 360 - 180 == pytest.approx(0, abs=5)


@pytest.mark.parametrize("box", [(-1e300, -1e300, 2e300, 2e300), (0, 0, 1, 1), (799, 599, 1, 1), (0, 300, 800, 1)])
def test_a_strange_box_is_no_obstacle(box: tuple[float, ...]) -> None:
    assert len(FaceFinder(ColourDetector()).find_in(with_squares(800, 600, [(300, 200, 90)]), [box])) == 1
