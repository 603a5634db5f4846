"""Decode the bytes of an image file to upright uint8[H, W, 3] RGB, or to a ``Status`` that says why not.

"Upright" and "as shown" mean: EXIF orientation applied; the first frame of an animation; transparency composited over
white; 16-bit samples reduced to their upper 8 bits; CMYK and grey converted to RGB; colour profiles not applied; of a TIFF
with several pages the largest.

Shapes: H, W pixels of the upright image; S side of a square.
"""

import contextlib
import re
import struct
import threading
import warnings
import zlib
from dataclasses import dataclass, replace
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError, features

from agegender.data import rescue
from agegender.schema import Status

Pixels = npt.NDArray[np.uint8]

DECODABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the supported formats, in the order tried; JPEG includes MPO. Other formats are unsafe: some run other
programs (EPS), some have no magic number and accept any bytes (TGA), some contain a larger image than declared (ICO), and
JPEG XL's plugin decodes the pixels before their number is known. HEIC is decoded where pillow-heif is installed."""

Image.init()  # registers all formats of this build of Pillow
_FORMATS = tuple(name for name in DECODABLE if name in Image.OPEN)

_DECODER_ERRORS = (
    *(
        OSError,
        SyntaxError,
        ValueError,
        LookupError,
        EOFError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)

_UPRIGHT_OPERATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> the operation that makes the image upright."""

_HEIC = re.compile(b"....ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)

_MAGIC = (
    *((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF"), (b"RIFF....WEBP", "WebP")),
    *((b"II\\*\0", "TIFF"), (b"MM\0\\*", "TIFF"), (b"BM.{4}\0\0\0\0", "BMP")),
    *((b"....ftyp(avif|avis)", "AVIF"), (b"\0\0\0\x0cjP  ", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000")),
    *((_HEIC.pattern, "HEIC"), (b"8BPS", "Photoshop"), (b"gimp xcf", "XCF")),
    *((b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"II\xbc", "JPEG XR"), (b"v/1\x01", "OpenEXR")),
    *((b"#\\?RADIANCE", "Radiance HDR"), (b"%!PS", "PostScript"), (b"\xc5\xd0\xd3\xc6", "PostScript")),
    *((b"\0\0\x01\0", "ICO"), (b"icns", "ICNS"), (b"DDS ", "DDS"), (b"qoif", "QOI"), (b"SIMPLE  =", "FITS")),
    *((b".{128}DICM", "DICOM"), (b"FUJIFILMCCD-RAW", "RAF"), (b"....ftypcrx ", "CR3")),
    (b"\\s*(?:<\\?xml[^>]*>)?\\s*(?:<!--.*?-->|<!DOCTYPE[^>]*>)?\\s*<svg", "SVG"),
)
_KNOWN_KINDS = tuple((re.compile(magic, re.DOTALL), kind) for magic, kind in _MAGIC)
_DECODABLE_KINDS = {"JPEG", "PNG", "GIF", "WebP", "TIFF", "BMP", "AVIF", "JPEG 2000"}
_CODECS = {"WebP": "webp", "AVIF": "avif", "JPEG 2000": "jpg_2000"}
"""Kind -> Pillow's name of a codec that not every build of it has."""
_ADDRESS = re.compile(r" <[^>]* at 0x[0-9a-f]+>")

# Pillow warns about the content of files (odd EXIF, many pixels), which the status covers and which would flood the log.
# A filter is thread-safe; warnings.catch_warnings changes state of the whole process.
warnings.filterwarnings("ignore", module=r"PIL\.")

# Scoring is parallel by process: OpenCV's own threads would compete for the same cores.
cv2.setNumThreads(1)

SCALED_MARGIN = 2
"""A scaled JPEG keeps at least this multiple of the wanted side: the averaged result then differs by less than a grey level."""

MIN_SIDE_PX = 16
"""Images with a shorter side cannot hold a face: ``too_small``."""

MAX_TIFF_PAGES = 64
"""Pages of a TIFF that are looked at."""

_JPEG_ENDS_EARLY = "Premature end of JPEG file"
"""libjpeg's words for a file without its end marker."""

_PILLOW_LIMIT_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Decoded:
    """The result of decoding one file; has pixels if and only if the status is ``ok``."""

    status: Status
    error: str | None = None
    """The decoder's message; None if ok. Deterministic."""

    pixels: Pixels | None = None
    """uint8[H, W, 3] RGB; smaller than ``width`` and ``height`` if decoded at a reduced scale (``enough_px``)."""

    width: int | None = None
    """Pixels of the upright image; also known for ``too_large`` and mostly for ``truncated``."""

    height: int | None = None

    format: str | None = None
    """Pillow's name: JPEG, PNG, ...; None if not recognised."""

    warning: str | None = None
    """What was lost or is doubtful, although there are pixels; None if nothing. Deterministic."""


def decode(
    data: bytes,
    max_pixels: int,
    enough_px: int | None = None,
    *,
    halved_from_pixels: int | None = None,
    allow_truncated: bool = False,
) -> Decoded:
    """Decode one image file of a format in ``DECODABLE``.

    A good image in damaged wrapping is decoded, with a ``warning``: behind a few other bytes, with damaged or huge metadata
    (PNG), without its last bytes (JPEG, if at most ``rescue.MAX_MISSING_SHARE`` is missing).

    Args:
        data: the whole file.
        max_pixels: images with more are ``too_large``, by their header, before any pixel is decoded.
        enough_px: side of the square that the caller resizes to. A much larger JPEG is then decoded at a reduced scale, to at
            least twice this side, in a fraction of the time. None: full size.
        halved_from_pixels: a JPEG of at least so many is decoded at half its size. None: none is.
        allow_truncated: a JPEG of which more is missing is ``ok``, too; grey where it is missing.

    Returns:
        Never raises for bad bytes: ``empty``, ``not_an_image``, ``unsupported`` (format or pixel type), ``truncated``,
        ``too_large``, ``too_small`` or ``unreadable``, with the decoder's message.

    Raises:
        MemoryError: not enough memory for an image within ``max_pixels``.
    """
    if not data:
        return Decoded(Status.EMPTY, "the file has 0 bytes")
    found = _decode(data, max_pixels, enough_px, halved_from_pixels)
    if found.status is Status.TRUNCATED and found.format in ("JPEG", "MPO"):
        return _rescued_jpeg(data, found, allow_truncated)
    if found.status in (Status.TRUNCATED, Status.UNREADABLE) and data.startswith(rescue.PNG_START):
        return _without_metadata(data, found, max_pixels)
    if found.status is Status.NOT_AN_IMAGE and (skipped := rescue.bytes_before_image(data)) is not None:
        inner = decode(data[skipped:], max_pixels, enough_px, allow_truncated=allow_truncated)
        if inner.pixels is not None:
            return _warned(inner, f"{skipped} bytes before the image were skipped")
    return found


def _decode(
    data: bytes, max_pixels: int, enough_px: int | None = None, halved_from_pixels: int | None = None
) -> Decoded:
    try:
        image = _open(data)
    except UnidentifiedImageError:
        return _unidentified(data)
    except _DECODER_ERRORS as error:
        return _failed(data, error)
    with image:
        warning = _choose_page(image)
        width, height = image.size
        if width * height > max_pixels:
            message = f"{width} x {height} = {width * height} pixels, bound {max_pixels}"
            return Decoded(Status.TOO_LARGE, message, None, *_shown_size(image), image.format)
        if min(width, height) < MIN_SIDE_PX:
            message = f"{width} x {height} pixels: a side is under {MIN_SIDE_PX}, too small to hold a face"
            return Decoded(Status.TOO_SMALL, message, None, *_shown_size(image), image.format)
        try:
            pixels, doubt = _shown_pixels(data, image, enough_px, halved_from_pixels)
        except _UnsupportedPixelsError as error:
            return Decoded(Status.UNSUPPORTED, str(error), None, *_shown_size(image), image.format)
        except _DECODER_ERRORS as error:
            return _failed(data, error, *_shown_size(image), image.format)
        return Decoded(Status.OK, None, pixels, *_shown_size(image), image.format, warning or doubt)


def _warned(decoded: Decoded, warning: str) -> Decoded:
    return replace(decoded, warning=warning if decoded.warning is None else f"{warning}; {decoded.warning}")


def _rescued_jpeg(data: bytes, found: Decoded, allow_truncated: bool) -> Decoded:
    try:
        jpeg = rescue.jpeg_without_end(data)
        if jpeg is None:
            return found
        if not (jpeg.is_nearly_whole or allow_truncated):
            return replace(found, error=f"{found.error}: {jpeg.loss}")
        pixels = np.array(_upright(_to_rgb(jpeg.image), _orientation(jpeg.image)))
    except _DECODER_ERRORS:
        return found
    return replace(found, status=Status.OK, error=None, pixels=pixels, warning=jpeg.loss)


def _without_metadata(data: bytes, found: Decoded, max_pixels: int) -> Decoded:
    stripped = rescue.png_without_metadata(data)
    if stripped is None:
        return found
    decoded = _decode(stripped[0], max_pixels)
    if decoded.pixels is None:
        return decoded
    return _warned(decoded, f"damaged or too large metadata was left out: {', '.join(stripped[1])}")


def resize(pixels: Pixels, side_px: int) -> Pixels:
    """Resize to a square; does not keep the aspect ratio.

    Args:
        pixels: uint8[H, W, 3].
        side_px: S.

    Returns:
        uint8[S, S, 3]; area averaging to shrink, bilinear to enlarge. May share memory with ``pixels``.
    """
    height, width = pixels.shape[:2]
    if height == width == side_px:
        return pixels
    method = cv2.INTER_AREA if min(height, width) >= side_px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (side_px, side_px), interpolation=method), dtype=np.uint8)


def resize_to_fit(pixels: Pixels, max_side_px: int) -> Pixels:
    """Shrink uint8[H, W, 3], keeping the aspect ratio, until the longer side has at most ``max_side_px``."""
    height, width = pixels.shape[:2]
    scale = max_side_px / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    """Encode uint8[H, W, 3] RGB as JPEG; quality 1-95."""
    target = BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=quality)
    return target.getvalue()


class _UnsupportedPixelsError(Exception):
    """The file is valid, but its pixel type has no standard conversion to RGB."""


def _open(data: bytes) -> Image.Image:
    formats = _FORMATS
    if _HEIC.match(data) and _register_heif():
        formats = ("HEIF",)
    try:
        return Image.open(BytesIO(data), formats=formats)
    except Image.DecompressionBombError:
        # Pillow's limit is a global. Disable it to read this header, so that the size is known and ``max_pixels`` decides;
        # images in other threads are still checked against ``max_pixels``.
        with _PILLOW_LIMIT_LOCK:
            bound, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                return Image.open(BytesIO(data), formats=formats)
            finally:
                Image.MAX_IMAGE_PIXELS = bound


def _register_heif() -> bool:
    """Whether HEIC can be decoded here. The plugin is imported when the first such file comes."""
    if "HEIF" not in Image.OPEN:
        try:
            import pillow_heif
        except ImportError:
            return False
        pillow_heif.register_heif_opener()
    return True


def _choose_page(image: Image.Image) -> str | None:
    """Select the largest page of a TIFF, the first of equals; says how many there are if there are several."""
    if image.format != "TIFF":
        return None
    sizes = [image.size]
    with contextlib.suppress(*_DECODER_ERRORS):  # EOFError after the last page; a damaged page ends the search
        for page in range(1, MAX_TIFF_PAGES):
            image.seek(page)
            sizes.append(image.size)
    areas = [width * height for width, height in sizes]
    chosen = areas.index(max(areas))
    if image.tell() != chosen:
        image.seek(chosen)
    if len(sizes) == 1:
        return None
    number = f"at least {MAX_TIFF_PAGES}" if len(sizes) == MAX_TIFF_PAGES else str(len(sizes))
    return f"the file has {number} pages; page {chosen + 1}, the largest, was decoded"


def _shown_pixels(
    data: bytes, image: Image.Image, enough_px: int | None, halved_from_pixels: int | None
) -> tuple[Pixels, str | None]:
    """uint8[H, W, 3] of an opened image, at a reduced scale if that is allowed; and the decoder's warning.

    Ordinary JPEGs are decoded by libjpeg-turbo directly, which Pillow uses internally: the same pixels in half the time.
    Pillow decodes all files that it rejects, and its message determines the status.
    """
    warning = None
    if image.format == "JPEG" and image.mode == "RGB":
        try:
            bounds = _reduced_bounds(*image.size, enough_px, halved_from_pixels)
            plain: Pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True, **bounds)
            orientation = _orientation(image)
            upright = orientation not in _UPRIGHT_OPERATIONS
            return plain if upright else np.array(_upright(Image.fromarray(plain), orientation)), None
        except ValueError as error:
            warning = str(error)
            if warning == _JPEG_ENDS_EARLY:
                raise OSError("the file is truncated") from error
    elif image.format == "JPEG" and rescue.is_padded_jpeg(data):  # Pillow would take the zeros for pixels
        raise OSError("the file is truncated")
    image.load()
    return np.array(_upright(_to_rgb(image), _orientation(image))), warning


def _reduced_bounds(width: int, height: int, enough_px: int | None, halved_from_pixels: int | None) -> dict[str, int]:
    """The bounds of the decoder's reduced size; empty: full size."""
    if halved_from_pixels is not None and width * height >= halved_from_pixels:
        return {"min_factor": 2, "min_width": -(-width // 2), "min_height": -(-height // 2)}
    min_side = SCALED_MARGIN * enough_px if enough_px else 0
    if 0 < 2 * min_side <= min(width, height):
        return {"min_factor": 2, "min_width": min_side, "min_height": min_side}
    return {}


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1-8; 1 if there is none or the EXIF block is damaged, which should not lose the image."""
    try:
        # Not image.getexif(): for PNG it decodes the pixels, before the limit is checked.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except _DECODER_ERRORS:
        return 1


def _shown_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    # Pillow applies the orientation of TIFF itself and has already swapped the size.
    return (height, width) if image.format != "TIFF" and _orientation(image) >= 5 else (width, height)


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _UPRIGHT_OPERATIONS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        return _from_integers(image).convert("RGB")
    if image.mode in ("F", "LAB"):
        raise _UnsupportedPixelsError(f"pixels of type {image.mode} have no agreed range in RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow would clip at 255, by its upper 8 bits, as Pillow does for 16-bit RGB."""
    samples = np.asarray(image)
    if samples.min() < 0 or samples.max() > 0xFFFF:
        raise _UnsupportedPixelsError(
            f"pixels of type {image.mode} reach {samples.min()} to {samples.max()}: beyond 16 bits"
        )
    return Image.fromarray((samples.astype(np.int32) >> 8).astype(np.uint8))


def _unidentified(data: bytes) -> Decoded:
    """The result for a file that no decoder recognised."""
    kind = next((kind for magic, kind in _KNOWN_KINDS if magic.match(data[:1024])), None)
    if kind is None:
        return Decoded(Status.NOT_AN_IMAGE, f"no image format is recognised; the file begins with {data[:16]!r}")
    if kind == "HEIC" and not _register_heif():
        return Decoded(
            Status.UNSUPPORTED, "HEIC images need pillow-heif, not installed here: pip install 'agegender[heif]'"
        )
    if kind not in (*_DECODABLE_KINDS, "HEIC"):
        return Decoded(Status.UNSUPPORTED, f"{kind} images are not decoded")
    if kind in _CODECS and not features.check(_CODECS[kind]):
        return Decoded(Status.UNSUPPORTED, f"this build of Pillow lacks the codec of {kind}")
    if _is_truncated(data):
        return Decoded(Status.TRUNCATED, f"the {kind} file ends within its header")
    return Decoded(Status.UNREADABLE, f"the header of the {kind} file cannot be read")


def _failed(
    data: bytes, error: BaseException, width: int | None = None, height: int | None = None, kind: str | None = None
) -> Decoded:
    """The result for a file that its decoder could not decode."""
    message = _ADDRESS.sub("", str(error)) or type(error).__name__
    if "not available" in message:
        status = Status.UNSUPPORTED  # this build of Pillow lacks the codec
    elif "truncated" in message.lower() or isinstance(error, EOFError) or _is_truncated(data):
        status = Status.TRUNCATED
    else:
        status = Status.UNREADABLE
    return Decoded(status, message, None, width, height, kind)


def _is_truncated(data: bytes) -> bool:
    """Whether a file that did not decode is truncated, by the end marker or length field of its format."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in data[-4096:]
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data[-4096:]
    if data.startswith(b"RIFF"):
        return len(data) < 12 or int.from_bytes(data[4:8], "little") + 8 > len(data)
    if data.startswith(b"BM"):
        return len(data) < 6 or int.from_bytes(data[2:6], "little") > len(data)
    if data[4:8] == b"ftyp":
        return _box_ends_beyond(data)
    return data.startswith(b"GIF8") and not data.rstrip(b"\0").endswith(b";")


def _box_ends_beyond(data: bytes) -> bool:
    """Whether a box of an ISO media file (HEIC, AVIF) is longer than the file."""
    at = 0
    for _ in range(1000):
        if at >= len(data):
            return False
        size = int.from_bytes(data[at : at + 4], "big")
        size = int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
        if size < 8:  # 0: to the end of the file
            return False
        at += size
        if at > len(data):
            return True
    return False
