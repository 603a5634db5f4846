"""The pixels of a photograph, of which no more are decoded than something asks for.

To find faces, half the size of a large photograph is enough; a small face is then cut out of all its pixels.
"""

from collections.abc import Callable

from agegender.data.alignment import BLACK_BORDER, FRAME_BORDER, frame_transform, warp
from agegender.data.face_geometry import Floats, compose, scale_of, scaling
from agegender.data.images import Decoded, Pixels, decode

HALVED_FROM_PIXELS = 3_000_000
"""Smaller JPEGs are decoded whole at once: half their size costs nearly as much, and most of their faces need all pixels."""


class Photograph:
    """A photograph whose coordinates are those of all its pixels, whichever of them are decoded.

    Args:
        pixels: uint8[H, W, 3] RGB, upright; may be reduced.
        size_px: width and height of the whole; None: of ``pixels``.
        decode_whole: decodes uint8[H, W, 3] of the whole, called once at most; None: ``pixels`` is all there is.
    """

    def __init__(
        self,
        pixels: Pixels,
        size_px: tuple[int, int] | None = None,
        decode_whole: Callable[[], Pixels | None] | None = None,
    ) -> None:
        self.reduced = pixels
        """The pixels that are there at no cost."""

        self.width: int
        self.height: int
        self.width, self.height = size_px or (pixels.shape[1], pixels.shape[0])
        self._whole = pixels if self.width == pixels.shape[1] else None
        self._decode_whole = decode_whole

    @classmethod
    def of(cls, photograph: "Photograph | Pixels") -> "Photograph":
        """A photograph, or all its pixels."""
        return photograph if isinstance(photograph, Photograph) else cls(photograph)

    @property
    def whole(self) -> Pixels:
        """All pixels; decoded when first asked for."""
        if self._whole is None:
            decoded = self._decode_whole() if self._decode_whole is not None else None
            self._whole = self.reduced if decoded is None else decoded
        return self._whole

    def is_decoded(self, scale: float) -> bool:
        """Whether the photograph at this scale, 0-1, takes no further decoding."""
        return self._whole is not None or self._is_reduced_enough(scale)

    def _is_reduced_enough(self, scale: float) -> bool:
        return bool(self.reduced.shape[1] >= round(self.width * min(scale, 1.0)))

    def at_least(self, scale: float) -> Pixels:
        """The fewest pixels that hold the photograph at this scale, 0-1."""
        return self.reduced if self._is_reduced_enough(scale) else self.whole

    def warp(self, matrix: Floats, side_px: int, border: int = BLACK_BORDER, *, decode: bool = True) -> Pixels:
        """Warp to a square, uint8[S, S, 3], as ``alignment.warp`` does.

        Args:
            matrix: float64[2, 3], from pixels of the whole photograph.
            side_px: S.
            border: OpenCV's border mode.
            decode: decode the whole where reduced pixels would have to be enlarged; otherwise enlarge them.
        """
        scale = scale_of(matrix)
        pixels = self.at_least(scale) if decode or self.is_decoded(scale) else self.reduced
        return warp(pixels, compose(matrix, scaling(self.width / pixels.shape[1])), side_px, border)

    def align(self, landmarks: Floats, side_px: int) -> Pixels:
        """Crop a face as ``alignment.align`` does, uint8[S, S, 3], from as many pixels as it needs."""
        return self.warp(frame_transform(landmarks, side_px), side_px, FRAME_BORDER)


def open_photograph(
    data: bytes, max_pixels: int, scale: float = 1.0, *, allow_truncated: bool = False
) -> tuple[Decoded, Photograph | None]:
    """Decode a photograph as far as a search at a scale needs it.

    Args:
        data: the whole file.
        max_pixels: as for ``decode``.
        scale: 0-1, at which it is searched for faces first.
        allow_truncated: as for ``decode``.

    Returns:
        What ``decode`` returns, and the photograph if there are pixels.

    Raises:
        MemoryError: as ``decode``.
    """
    halved_from = HALVED_FROM_PIXELS if scale <= 0.5 else None
    decoded = decode(data, max_pixels, halved_from_pixels=halved_from, allow_truncated=allow_truncated)
    if decoded.pixels is None or decoded.width is None or decoded.height is None:
        return decoded, None

    def whole() -> Pixels | None:
        return decode(data, max_pixels, allow_truncated=allow_truncated).pixels

    return decoded, Photograph(decoded.pixels, (decoded.width, decoded.height), whole)
