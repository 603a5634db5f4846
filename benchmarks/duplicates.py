"""Precision and recall of near-duplicate detection, by threshold of the hash and of the thumbnail.

Recall: every image is re-encoded, resized and cropped, and searched again. Precision: all pairs of a set of real images
that hash and thumbnail match are compared at higher resolution (64 x 64 grey levels, best of 75 alignments).

    python benchmarks/duplicates.py UTKFace/ --copies 400 --images 19000
"""

import argparse
import itertools
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from agegender.data import duplicates
from agegender.data.images import Pixels, decode

BITS = (4, 6, 8, 10)
BOUNDS = (-1.0, 0.90, 0.92, 0.94, 0.95, 0.96)
"""Minimum correlation of the thumbnails; -1: hash only."""

COLUMNS = (*((bits, -1.0) for bits in BITS), (8, 0.94), (8, 0.95), (8, 0.96))
"""Bounds of the recall table."""

SAME, UNCLEAR = 0.95, 0.90
"""Fine correlation from which two images are the same picture, and below which they are not; looked at by eye."""

FINE_PX = 64
MAX_PIXELS = 100_000_000


def copies(pixels: Pixels) -> Iterator[tuple[str, Pixels]]:
    """Typical modifications of an image on the web."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    for quality in (75, 50):
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        yield f"JPEG quality {quality}", np.asarray(Image.open(buffer))
    for percent in (50, 150):
        size = (width * percent // 100, height * percent // 100)
        yield f"resized to {percent} %", np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    for percent in (2, 5):
        cut = round(width * percent / 200)
        yield f"cropped by {percent} %, centre kept", pixels[cut : height - cut, cut : width - cut]
        cut = round(width * percent / 100)
        yield f"cropped by {percent} %, one corner kept", pixels[cut:, cut:]


def look(pixels: Pixels) -> tuple[int, Pixels]:
    """Hash and thumbnail; a blank image counts as hash 0."""
    found, thumbnail = duplicates.perceptual_fingerprint(np.ascontiguousarray(pixels))
    return found or 0, thumbnail


def recall_table(originals: list[Pixels]) -> str:
    """Share of copies found, one row per kind of copy, one column per pair of bounds."""
    found: dict[str, list[tuple[int, float]]] = {}
    for pixels in originals:
        hash_before, thumbnail = look(pixels)
        for kind, copy in copies(pixels):
            hash_after, thumbnail_after = look(copy)
            correlation = float(duplicates.correlation(thumbnail[None], thumbnail_after[None])[0])
            found.setdefault(kind, []).append(((hash_before ^ hash_after).bit_count(), correlation))
    rows = []
    for kind, values in found.items():
        bits, correlation = np.array(values).T
        cells = [f"{np.mean((bits <= b) & (correlation >= c)):.3f}" for b, c in COLUMNS]
        rows.append(f"| {kind} | " + " | ".join(cells) + " |")
    head = [f"{b} bits" + (f", {c}" if c > 0 else "") for b, c in COLUMNS]
    return "\n".join([f"| copy | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|", *rows])


def grey(pixels: Pixels) -> Pixels:
    """Fine grey levels, uint8[F, F]."""
    size = (FINE_PX, FINE_PX)
    return np.asarray(Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.BOX))


def fine_correlation(left: Pixels, right: Pixels) -> float:
    """Best correlation of two fine images over small zooms and shifts of either."""
    return max(_best(left, right), _best(right, left))


def _best(fixed: Pixels, moved: Pixels) -> float:
    image = Image.fromarray(moved)
    best = -1.0
    for zoom, dx, dy in itertools.product((1.0, 0.975, 0.95), (-2, -1, 0, 1, 2), (-2, -1, 0, 1, 2)):
        margin = FINE_PX * (1 - zoom) / 2
        box = (margin + dx, margin + dy, FINE_PX - margin + dx, FINE_PX - margin + dy)
        aligned = image.transform((FINE_PX, FINE_PX), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
        inner = slice(3, FINE_PX - 3)
        best = max(best, _correlation(fixed[inner, inner], np.asarray(aligned)[inner, inner]))
    return best


def _correlation(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> float:
    return float(np.corrcoef(left.ravel(), right.ravel())[0, 1])


def precision_table(files: list[Path]) -> str:
    """Pairs found among different files, and how many of them the fine comparison confirms."""
    hashes, thumbnails, fine, seen = [], [], [], set()
    for path in files:
        data = path.read_bytes()
        content, decoded = duplicates.content_hash(data), decode(data, MAX_PIXELS)
        if decoded.pixels is None or content in seen:
            continue
        seen.add(content)
        found, thumbnail = look(decoded.pixels)
        hashes.append(found)
        thumbnails.append(thumbnail)
        fine.append(grey(decoded.pixels))
    pairs = duplicates.near_pairs(np.array(hashes, np.uint64), max(BITS))
    bits = np.array([(hashes[a] ^ hashes[b]).bit_count() for a, b in pairs])
    stacked = np.array(thumbnails)
    correlation = duplicates.correlation(stacked[pairs[:, 0]], stacked[pairs[:, 1]])
    looked = correlation >= BOUNDS[1]  # the rest are counted as strangers unseen
    finely = np.array(
        [fine_correlation(fine[a], fine[b]) if at else -1.0 for (a, b), at in zip(pairs, looked, strict=True)]
    )
    rows = [f"{len(hashes):,} different files, {len(hashes) * (len(hashes) - 1) // 2:,} pairs", ""]
    rows += ["| bits | correlation | pairs found | same picture | unclear | strangers |", "|---|---|---|---|---|---|"]
    for most_bits, bound in itertools.product(BITS, BOUNDS):
        kept = (bits <= most_bits) & (correlation >= bound)
        same, strange = kept & (finely >= SAME), kept & (finely < UNCLEAR)
        counts = [int(kept.sum()), int(same.sum()), int((kept & ~same & ~strange).sum()), int(strange.sum())]
        bound_text = "none" if bound < 0 else f"{bound:.2f}"
        rows.append(f"| {most_bits} | {bound_text} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    return "\n".join(rows)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=int, default=400, help="images of which copies are made")
    parser.add_argument("--images", type=int, default=3000, help="images that are compared with each other")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.folder.iterdir() if path.is_file())
    np.random.default_rng(arguments.seed).shuffle(files)
    originals = [
        decoded.pixels
        for path in files[: arguments.copies]
        if (decoded := decode(path.read_bytes(), MAX_PIXELS)).pixels is not None
    ]
    print(recall_table(originals), precision_table(files[: arguments.images]), sep="\n\n")


if __name__ == "__main__":
    main()
