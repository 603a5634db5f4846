"""Images of every kind that a user's folder may hold, good and bad, made on the spot: no image files are shipped.

``write_corpus`` writes them all and says what status each deserves. ``PICTURE`` is what the lossless ones show.
"""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from agegender.data.images import Decoded, Pixels
from agegender.schema import Status

MAX_PIXELS = 40_000
"""The pixel bound that the corpus is made for: ``big.png`` exceeds it."""

WIDTH, HEIGHT = 48, 40

WITH_WARNING = frozenset({"no_end.jpg", "bytes_before.jpg", "damaged_metadata.png", "pages.tif"})
"""Names of the good images that are not quite whole, or not all of what the file holds."""

pillow_heif.register_heif_opener()  # for writing: the decoder registers it by itself


def picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8[height, width, 3]: smooth, coloured, with no symmetry that would hide a wrong turn."""
    y, x = np.mgrid[:height, :width] / (height, width)[0]
    channels = [40 + 170 * x * width / width / 1.2, 220 - 180 * y, 60 + 120 * np.abs(np.sin(2 * x + 3 * y))]
    return np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)


PICTURE = picture()


def pixels_of(decoded: Decoded) -> Pixels:
    """The pixels of an image that must be readable."""
    assert decoded.pixels is not None, decoded
    return decoded.pixels


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_chunk(png: bytes, added: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    return png[:33] + added + png[33:]


def png_of_rgb16(samples: np.ndarray) -> bytes:
    """A PNG of uint16[H, W, 3], chunk by chunk: Pillow cannot write one."""
    height, width = samples.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def cmyk_of(rgb: np.ndarray) -> np.ndarray:
    """uint8[H, W, 4] with as much black ink as possible, which shows as ``rgb`` to within 1."""
    light = rgb.max(axis=-1, keepdims=True).astype(np.float64)
    return np.concatenate([255 - 255 * rgb / np.maximum(light, 1), 255 - light], axis=-1).round().astype(np.uint8)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def good_images() -> dict[str, bytes]:
    """File name -> content, all of status ``ok``."""
    rgb = Image.fromarray(PICTURE)
    grey = rgb.convert("L")
    grey16 = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256 + 77)
    alpha = rgb.copy()
    alpha.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))))
    second = Image.fromarray(255 - PICTURE)
    cmyk = Image.fromarray(cmyk_of(PICTURE), "CMYK")
    frames = {"save_all": True, "append_images": [second], "duration": 100, "loop": 0}
    files = {
        "plain.jpg": encoded(rgb, "JPEG", quality=95),
        "progressive.jpg": encoded(rgb, "JPEG", progressive=True),
        "plain.png": encoded(rgb, "PNG"),
        "wrong_extension.jpg": encoded(rgb, "PNG"),
        "grey.jpg": encoded(grey, "JPEG"),
        "grey.png": encoded(grey, "PNG"),
        "grey16.png": encoded(grey16, "PNG"),
        "rgb16.png": png_of_rgb16(PICTURE.astype(np.uint16) * 256 + 77),
        "bilevel.png": encoded(grey.convert("1"), "PNG"),
        "cmyk.jpg": encoded(cmyk, "JPEG", quality=95),
        "cmyk.tif": encoded(cmyk, "TIFF"),
        "palette.png": encoded(rgb.quantize(32), "PNG"),
        "palette_transparent.png": encoded(rgb.quantize(32), "PNG", transparency=bytes(range(0, 256, 8))),
        "alpha.png": encoded(alpha, "PNG"),
        "grey_alpha.png": encoded(alpha.convert("LA"), "PNG"),
        "alpha.webp": encoded(alpha, "WEBP", lossless=True, exact=True),
        "plain.bmp": encoded(rgb, "BMP"),
        "plain.tif": encoded(rgb, "TIFF", compression="tiff_lzw"),
        "plain.webp": encoded(rgb, "WEBP", lossless=True),
        "plain.ppm": encoded(rgb, "PPM"),
        "animated.gif": encoded(rgb, "GIF", **frames),
        "animated.png": encoded(rgb, "PNG", **frames),
        "animated.webp": encoded(rgb, "WEBP", lossless=True, **frames),
        "several_pictures.jpg": encoded(rgb, "MPO", save_all=True, append_images=[second]),
        "damaged_exif.jpg": encoded(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7fgarbage"),
        "photo.heic": encoded(rgb, "HEIF", quality=95),
        "no_end.jpg": encoded(rgb, "JPEG", quality=95)[:-2],
        "bytes_before.jpg": b"\r\n" + encoded(rgb, "JPEG", quality=95),
        "damaged_metadata.png": with_chunk(encoded(rgb, "PNG"), chunk(b"pHYs", bytes(9))[:-4] + b"nope"),
        "pages.tif": encoded(second.resize((20, 20)), "TIFF", save_all=True, append_images=[rgb.copy()]),
    }
    for orientation in range(1, 9):
        files[f"orientation{orientation}.jpg"] = encoded(rgb, "JPEG", quality=95, exif=exif(orientation))
        files[f"orientation{orientation}.png"] = encoded(rgb, "PNG", exif=exif(orientation))
        files[f"orientation{orientation}.tif"] = encoded(rgb, "TIFF", exif=exif(orientation))
    return files


def bad_images() -> dict[str, tuple[Status, bytes]]:
    """File name -> status that it deserves and content."""
    rgb = Image.fromarray(PICTURE)
    whole = {kind: encoded(Image.fromarray(picture(160, 160)), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP")}
    broken = bytearray(whole["PNG"])
    broken[41:43] = b"xx"  # where the compressed pixels begin
    huge_header = bytearray(whole["PNG"])
    huge_header[16:24] = struct.pack(">II", 30_000, 30_000)
    huge_header[29:33] = struct.pack(">I", zlib.crc32(huge_header[12:29]))
    heic = encoded(rgb, "HEIF")
    return {
        "zero_bytes.jpg": (Status.EMPTY, b""),
        "truncated.jpg": (Status.TRUNCATED, _cut(whole["JPEG"])),
        "truncated_in_header.jpg": (Status.TRUNCATED, whole["JPEG"][:100]),
        "truncated.png": (Status.TRUNCATED, _cut(whole["PNG"])),
        "truncated.webp": (Status.TRUNCATED, _cut(whole["WEBP"])),
        "truncated.gif": (Status.TRUNCATED, _cut(whole["GIF"])),
        "truncated.bmp": (Status.TRUNCATED, _cut(whole["BMP"])),
        "text.jpg": (Status.NOT_AN_IMAGE, b"<html><body>404 not found</body></html>\n"),
        "noise.jpg": (Status.NOT_AN_IMAGE, np.random.default_rng(0).bytes(2000)),
        "document.pdf.jpg": (Status.NOT_AN_IMAGE, b"%PDF-1.4\n%%EOF\n"),
        "truncated.heic": (Status.TRUNCATED, _cut(heic)),
        "photo.jxl.jpg": (Status.UNSUPPORTED, b"\xff\x0a" + bytes(64)),
        "one_pixel.png": (Status.TOO_SMALL, encoded(Image.new("RGB", (1, 1)), "PNG")),
        "thin.jpg": (Status.TOO_SMALL, encoded(Image.new("RGB", (200, 15)), "JPEG")),
        "layers.psd.jpg": (Status.UNSUPPORTED, b"8BPS\0\1" + bytes(200)),
        "drawing.svg.jpg": (Status.UNSUPPORTED, b'<?xml version="1.0"?>\n<svg xmlns="x"></svg>'),
        "program.eps.jpg": (Status.UNSUPPORTED, encoded(rgb, "EPS")),
        "float.tif": (Status.UNSUPPORTED, encoded(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF")),
        "big.png": (Status.TOO_LARGE, encoded(Image.new("RGB", (300, 200)), "PNG")),
        "bomb.png": (Status.TOO_LARGE, bytes(huge_header)),
        "broken.png": (Status.UNREADABLE, bytes(broken)),
        "no_tables.jpg": (Status.UNREADABLE, whole["JPEG"][:20] + b"\xff\xd9"),
    }


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def write_corpus(folder: Path) -> dict[str, Status]:
    """Write every image to ``folder``, which is made; decode them with the bound ``MAX_PIXELS``.

    Returns:
        File name -> the status that it deserves.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: (Status.OK, data) for name, data in good_images().items()} | bad_images()
    for name, (_, data) in files.items():
        (folder / name).write_bytes(data)
    return {name: status for name, (status, _) in files.items()}
