"""Detect the faces of a photograph and align each to the framing that models are trained on.

    pixels -> multi-scale tiled detection -> refinement of each candidate on an upright crop -> faces, largest first -> crops

The detector is trained on upright faces. It still finds many that are turned, but takes their mouth for their eyes. So each
candidate is looked at in four quarter turns unless the first look leaves no doubt, and a photograph whose faces turn out to be
turned is searched once more, straightened.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from agegender.data.alignment import CANONICAL_LANDMARKS, reduced
from agegender.data.detectors import Detector, YuNetDetector
from agegender.data.face_geometry import (
    Face,
    Floats,
    apply,
    common_roll_degrees,
    compose,
    credible,
    degrees_between,
    distinct,
    inverse,
    is_same,
    largest_first,
    rotation,
    scale_of,
    scaling,
    search_scales,
    similarity,
    tiles,
    turned_apart,
)
from agegender.data.images import Pixels
from agegender.data.photograph import Photograph


def _centerface(model: bytes) -> Detector:
    from agegender.data.centerface import CenterFaceDetector  # few ask for it

    return CenterFaceDetector(model)


DETECTORS: dict[str, Callable[[bytes], Detector]] = {"yunet": YuNetDetector, "centerface": _centerface}
"""Name -> class, made of the bytes of its file."""

SEARCHED_FACE_PX = 8.0
"""Size of a face of ``min_face_px`` at the finest scale of the first search. It finds most such faces, and all larger ones."""

THOROUGH_FACE_PX = 20.0
"""The same for the second search of a photograph in which small faces were found; six times the pixels."""

SMALL_FACE = 4.0
"""A face under this multiple of ``min_face_px`` asks for the second search: small faces seldom stand alone."""

SCALE_STEP = 4.0
MAX_TILE_PX = 1280
"""Bounds the detector's memory for photographs of any size."""

TILE_OVERLAP_PX = 96
"""A face larger than the overlap may be cut in every tile; the next scale finds it."""

COARSEST_SCALE_LONG_SIDE_PX = 320
"""The coarsest scale: the detector misses faces that fill an image much larger than this."""

CANDIDATE_MIN_SCORE = 0.2
"""Score threshold of candidates; low, because small faces score low before refinement."""

REFINE_SIDE_PX = 160
REFINE_MARGIN = 1.5
"""Side of the upright crop of a candidate, and how much wider than ``FRAMING`` it is."""

VOTE_SIDE_PX = 112
"""Side of the same crop when its four quarter turns are compared: in half the time, and of 80, 112 and 160 the best."""

SURE_SCORE = 0.91
"""A refined face of this score is upright in its crop: of 25 faces of 16 photographs, 21 score it, and none on its side or head
scores more than 0.89."""

TILTED_DEGREES = 20.0
"""A photograph whose faces are turned by more than this, together, is searched again straightened."""

MAX_WARPED_SIDE_PX = 32_000
"""OpenCV warps no larger picture; a larger one is straightened by quarter turns only."""

BOX_LOOKS_PX = (160, 480)
"""Sides of the crop in which the face of a given box is looked for: the second where the first shows none, as in a box around
more than the face."""

BOX_MARGIN = 1.6
"""How much larger than the longer side of the box that crop is."""

ASKEW_DEGREES = 5.0
MAX_STRAIGHTENINGS = 2
ASKEW_LOSS = 0.05
"""A face that a look finds askew by more is straightened and looked at again, so often at most, unless its score falls."""

PROMISING_SCORE = 0.3
"""A candidate that a look at reduced pixels gave less is not looked at in all pixels."""

LOOK_ENLARGED = 1.5
"""A look may enlarge the pixels by this much where more could be decoded."""

REFINE_MAX_OFFSET = 0.35
"""Refinement accepts a face within this share of the side from the centre: others are candidates of their own."""


@dataclass(frozen=True)
class FaceFinder:
    """Finds the faces of a photograph of any size with any ``Detector``."""

    detector: Detector
    min_score: float = 0.6
    """Minimum detection score."""

    min_face_px: int = 24
    """Minimum shorter side of a box, in pixels of the upright image; sets the finest scale of the search."""

    max_faces: int | None = None
    """Keep at most this many, the largest; None: all."""

    @property
    def search_scale(self) -> float:
        """The scale at which a photograph is searched first."""
        return min(1.0, SEARCHED_FACE_PX / self.min_face_px)

    def find(self, photograph: Photograph | Pixels) -> list[Face]:
        """The faces of a photograph.

        Args:
            photograph: upright; or all its pixels, uint8[H, W, 3] RGB.

        Returns:
            Each face once, largest first; deterministic.
        """
        photo = Photograph.of(photograph)
        search = self._search(photo, SEARCHED_FACE_PX)
        faces = self._refined(photo, self._candidates(search))
        if not faces:
            coarsest = search.coarsest()
            turns = (self._candidates(coarsest.turned(degrees)) for degrees in (90.0, 180.0, 270.0))
            faces = self._refined(photo, (face for found in turns for face in found))
        roll_degrees = common_roll_degrees(faces)
        if abs(roll_degrees) > TILTED_DEGREES:
            faces += self._refined(photo, self._candidates(search.turned(-roll_degrees)))
        if any(face.shorter_side_px < SMALL_FACE * self.min_face_px for face in faces):
            thorough = self._search(photo, THOROUGH_FACE_PX).finest()
            if abs(roll_degrees) > TILTED_DEGREES:
                thorough = thorough.turned(-roll_degrees)
            others = (face for face in self._candidates(thorough) if not any(is_same(face, known) for known in faces))
            faces += self._refined(photo, list(others))
        large = [face for face in credible(distinct(faces)) if face.shorter_side_px >= self.min_face_px]
        return largest_first(large)[: self.max_faces]

    def _search(self, photo: Photograph, smallest_px: float) -> "_Search":
        """A search at which a face of ``min_face_px`` has this size at the finest scale."""
        finest = smallest_px / self.min_face_px
        scales = search_scales(max(photo.width, photo.height), finest, SCALE_STEP, COARSEST_SCALE_LONG_SIDE_PX)
        pixels = photo.at_least(scales[0])
        picture = reduced(pixels, scales[0] * photo.width / pixels.shape[1])
        to_image = scaling(photo.width / picture.shape[1])
        return _Search(picture, to_image, tuple(scale / scales[0] for scale in scales))

    def _candidates(self, search: "_Search") -> Iterator[Face]:
        scaled, before = search.picture, 1.0
        for scale in search.scales:
            scaled, before = reduced(scaled, scale / before), scale
            back = compose(search.to_image, scaling(search.picture.shape[1] / scaled.shape[1]))
            for columns, rows in tiles(scaled.shape[1], scaled.shape[0], MAX_TILE_PX, TILE_OVERLAP_PX):
                tile = scaled[rows, columns]
                for face in self.detector.detect(tile, CANDIDATE_MIN_SCORE):
                    in_scaled = face.mapped(scaling(1.0, columns.start, rows.start))
                    if not _is_cut(in_scaled, (columns.start, rows.start), tile, scaled):
                        yield in_scaled.mapped(back)

    def _refined(self, photo: Photograph, candidates: Iterable[Face]) -> list[Face]:
        refined = (self._refine(photo, candidate) for candidate in distinct(candidates))
        return [face for face in refined if face is not None]

    def _refine(self, photo: Photograph, candidate: Face) -> Face | None:
        """Detect the candidate again in an upright crop of fixed size, whichever way up the candidate seemed to be."""
        matrix = _refine_transform(candidate.landmarks)
        if matrix is None:
            return None
        crop = photo.warp(matrix, REFINE_SIDE_PX, decode=False)
        is_sharp = photo.is_decoded(scale_of(matrix) / LOOK_ENLARGED)
        face = self._detect_at(crop, matrix, CANDIDATE_MIN_SCORE)
        if face is not None and face.score >= SURE_SCORE and is_sharp:
            return self._straightened(photo, face, candidate)
        votes = self._votes(crop, matrix)
        best = max(votes, key=lambda vote: vote.score, default=None)
        if best is None or best.score < PROMISING_SCORE:
            return None
        others = (vote.score for vote in votes if turned_apart(vote, best))
        margin = min((best.score - score for score in others), default=None)
        if face is None or turned_apart(face, best) or not is_sharp:
            face, candidate = self._look(photo, best), best
        if face is None:
            return None
        face = self._straightened(photo, face, candidate)
        return replace(face, direction_margin=margin) if face.score >= self.min_score else None

    def _look(self, photo: Photograph, face: Face) -> Face | None:
        """The face in a crop that is upright by its landmarks."""
        matrix = _refine_transform(face.landmarks)
        if matrix is None:
            return None
        return self._detect_at(photo.warp(matrix, REFINE_SIDE_PX), matrix, CANDIDATE_MIN_SCORE)

    def _straightened(self, photo: Photograph, face: Face, before: Face) -> Face:
        """The face, looked at again as long as it stands askew: the detector takes tilted faces for less tilted than they are."""
        for _ in range(MAX_STRAIGHTENINGS):
            if abs(degrees_between(face.roll_degrees, before.roll_degrees)) <= ASKEW_DEGREES:
                break
            again = self._look(photo, face)
            if again is None or again.score < face.score - ASKEW_LOSS:
                break
            before, face = face, again
        return face

    def _votes(self, crop: Pixels, matrix: Floats) -> list[Face]:
        """What is seen in each of four quarter turns of a crop, in pixels of the image that the transform leads from."""
        small = reduced(crop, VOTE_SIDE_PX / REFINE_SIDE_PX)
        to_small = compose(scaling(VOTE_SIDE_PX / REFINE_SIDE_PX), matrix)
        found = []
        for quarters in range(4):
            turn = rotation(90.0 * quarters, np.full(2, VOTE_SIDE_PX / 2))
            found.append(self._detect_at(np.rot90(small, -quarters), compose(turn, to_small), CANDIDATE_MIN_SCORE))
        return [face for face in found if face is not None]

    def _detect_at(self, crop: Pixels, matrix: Floats, min_score: float) -> Face | None:
        """The face in the middle of a crop, in pixels of the image that the transform leads from."""
        side_px = crop.shape[0]
        centre = np.full(2, side_px / 2)
        near = [
            face
            for face in self.detector.detect(crop, min_score)
            if np.abs(face.centre - centre).max() < REFINE_MAX_OFFSET * side_px
        ]
        if not near:
            return None
        return min(near, key=lambda face: float(np.abs(face.centre - centre).sum())).mapped(inverse(matrix))

    def find_in(self, photograph: Photograph | Pixels, boxes: Iterable[Sequence[float]]) -> list[Face | None]:
        """The face in each of the given boxes, whatever its size.

        Args:
            photograph: as for ``find``.
            boxes: x, y, width, height of each, in pixels; part of it must lie in the image.

        Returns:
            For each box the best face whose centre lies in it; None: no face of ``min_score``.
        """
        photo = Photograph.of(photograph)
        return [self._find_in(photo, box) for box in boxes]

    def _find_in(self, photo: Photograph, box: Sequence[float]) -> Face | None:
        x, y, width, height = _clipped(box, photo)
        for look_px in BOX_LOOKS_PX:
            scale = look_px / (BOX_MARGIN * max(width, height))
            matrix = scaling(scale, look_px / 2 - scale * (x + width / 2), look_px / 2 - scale * (y + height / 2))
            crop = photo.warp(matrix, look_px)
            for quarters in range(4):
                turn = rotation(90.0 * quarters, np.full(2, look_px / 2))
                back = inverse(compose(turn, matrix))
                turned = np.ascontiguousarray(np.rot90(crop, -quarters))
                found = (face.mapped(back) for face in self.detector.detect(turned, CANDIDATE_MIN_SCORE))
                inside = [face for face in found if _has_centre_of((x, y, width, height), face)]
                for candidate in sorted(inside, key=lambda face: -face.score * _overlap((x, y, width, height), face)):
                    face = self._refine(photo, candidate)
                    if face is not None and _has_centre_of((x, y, width, height), face):
                        return face
        return None


@dataclass(frozen=True)
class _Search:
    """What one search looks at: a picture, the transform to the photograph, its scales relative to the picture."""

    picture: Pixels
    to_image: Floats
    scales: tuple[float, ...]

    def finest(self) -> "_Search":
        """The same at its finest scale alone."""
        return replace(self, scales=self.scales[:1])

    def coarsest(self) -> "_Search":
        """The same at its coarsest scale alone."""
        picture = reduced(self.picture, self.scales[-1])
        return _Search(picture, compose(self.to_image, scaling(self.picture.shape[1] / picture.shape[1])), (1.0,))

    def turned(self, degrees: float) -> "_Search":
        """The same, rotated clockwise."""
        picture, matrix = _turned(self.picture, degrees)
        return replace(self, picture=picture, to_image=compose(self.to_image, inverse(matrix)))


@dataclass(frozen=True)
class FaceSearch:
    """Settings of a face search; picklable, sent to the workers."""

    model: bytes
    """Bytes of the detector's model file."""

    min_score: float
    min_face_px: int
    max_faces: int | None
    in_boxes: bool = False
    """Look for one face in each of the user's own boxes, and nowhere else."""
    detector: str = YuNetDetector.name
    """One of ``DETECTORS``."""

    def finder(self, max_faces: int | None = None) -> FaceFinder:
        """A finder for one thread.

        Args:
            max_faces: overrides the search's own.

        Raises:
            InputError: the detector's file cannot be read.
        """
        detector = DETECTORS[self.detector](self.model)
        return FaceFinder(detector, self.min_score, self.min_face_px, max_faces or self.max_faces)

    @property
    def no_face_message(self) -> str:
        """The ``error`` of an image without a face."""
        return f"no face of at least {self.min_face_px} pixels and score {self.min_score:g}"


def largest_face_cropper(search: FaceSearch, side_px: int) -> Callable[[Pixels], Pixels | None]:
    """A thread-safe function that crops the largest face of a photograph, uint8[S, S, 3]; None without a face."""
    of_thread = threading.local()

    def cut(pixels: Pixels) -> Pixels | None:
        if not hasattr(of_thread, "finder"):
            of_thread.finder = search.finder(max_faces=1)
        photo = Photograph(pixels)
        faces = of_thread.finder.find(photo)
        return photo.align(faces[0].landmarks, side_px) if faces else None

    return cut


def _is_cut(face: Face, corner: tuple[int, int], tile: Pixels, image: Pixels) -> bool:
    """Whether the edge of the tile cuts the face: then the next tile or the next scale has all of it."""
    (x, y), (height, width) = corner, tile.shape[:2]
    return (
        (x > 0 and face.x <= x + 1)
        or (y > 0 and face.y <= y + 1)
        or (x + width < image.shape[1] and face.x + face.width >= x + width - 1)
        or (y + height < image.shape[0] and face.y + face.height >= y + height - 1)
    )


def _clipped(box: Sequence[float], photo: Photograph) -> tuple[float, float, float, float]:
    """The part of a box, x, y, width, height, that lies in the image."""
    x, y = max(box[0], 0.0), max(box[1], 0.0)
    return x, y, min(box[0] + box[2], photo.width) - x, min(box[1] + box[3], photo.height) - y


def _has_centre_of(box: Sequence[float], face: Face) -> bool:
    x, y = face.centre
    return bool(box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3])


def _overlap(box: Sequence[float], face: Face) -> float:
    """Intersection over union of a box and a face's."""
    across = min(box[0] + box[2], face.x + face.width) - max(box[0], face.x)
    down = min(box[1] + box[3], face.y + face.height) - max(box[1], face.y)
    shared = max(across, 0.0) * max(down, 0.0)
    return shared / (box[2] * box[3] + face.area - shared)


def _turned(pixels: Pixels, degrees: float) -> tuple[Pixels, Floats]:
    """A picture rotated clockwise, black in the corners, and the transform to it."""
    height, width = pixels.shape[:2]
    quarter = round(degrees / 90) * 90.0
    if abs(degrees - quarter) < TILTED_DEGREES or max(height, width) > MAX_WARPED_SIDE_PX:
        degrees = quarter  # keeps every pixel as it is
    matrix = rotation(degrees, np.zeros(2))
    corners = apply(matrix, np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64))
    matrix[:, 2] -= corners.min(axis=0)
    if degrees == quarter:
        return np.ascontiguousarray(np.rot90(pixels, -round(quarter / 90))), matrix
    columns, rows = np.ceil(np.ptp(corners, axis=0)).astype(int).tolist()
    centred = matrix.copy()
    centred[:, 2] = apply(matrix, np.array([[0.5, 0.5]]))[0] - 0.5
    return np.asarray(cv2.warpAffine(pixels, centred, (columns, rows), flags=cv2.INTER_LINEAR), dtype=np.uint8), matrix


def _refine_transform(landmarks: Floats) -> Floats | None:
    margin = (REFINE_MARGIN - 1) / 2
    return similarity(landmarks, (CANONICAL_LANDMARKS + margin) / REFINE_MARGIN * REFINE_SIDE_PX)
