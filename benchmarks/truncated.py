"""Measure what the missing end of a JPEG does to the estimates of a face crop.

    python benchmarks/truncated.py --input UTKFace/ [--count 400]

Each crop is cut at random, as it is and encoded anew as a progressive JPEG, decoded as far as it goes and scored by the
released model; compared with the estimate of the whole crop.
"""

import argparse
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from agegender.config import RELEASED_MODEL
from agegender.data import rescue
from agegender.data.images import Pixels, decode, resize
from agegender.pipelines.runtime.model_cache import localize_model, model_address
from agegender.scoring.cpu import CpuScorer

BOUNDS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
CUTS = 6  # of each image, of which the first is short, so that small losses occur


def main() -> None:
    """Print the mean change of age and the share of changed genders for each range of loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder of .jpg face crops")
    parser.add_argument("--count", type=int, default=400)
    given = parser.parse_args()
    scorer = CpuScorer(localize_model(model_address(RELEASED_MODEL)))
    sources = sorted(path for path in given.input.iterdir() if path.suffix == ".jpg")
    draws = np.random.default_rng(0)
    crops: dict[str, list[tuple[Pixels, Pixels]]] = defaultdict(list)
    for path in sources[:: max(1, len(sources) // given.count)][: given.count]:
        baseline = path.read_bytes()
        for data in (baseline, _progressive(baseline)):
            whole = decode(data, 10**8).pixels
            assert whole is not None, path
            for cut in range(CUTS):
                most = 0.08 if cut == 0 else 0.6
                found = rescue.jpeg_without_end(data[: int(len(data) * (1 - draws.uniform(0, most)))])
                if found is not None:
                    pair = (np.array(found.image.convert("RGB")), whole)
                    crops[_kind(found)].append((_side(pair[0], scorer), _side(pair[1], scorer)))
    for kind, pairs in sorted(crops.items()):
        left, full = (scorer.score(np.stack(list(images))) for images in zip(*pairs, strict=True))
        age = np.abs(left.age_years - full.age_years)
        gender = (left.female_probability >= 0.5) != (full.female_probability >= 0.5)
        print(f"{kind:32} n {len(pairs):5}  age changes by {age.mean():5.2f} years, gender {gender.mean():6.2%}")


def _kind(found: rescue.RescuedJpeg) -> str:
    share = found.missing_share
    if share is None:
        return "progressive: " + ("last bit missing" if found.is_nearly_whole else "more missing")
    above = next((bound for bound in BOUNDS if share <= bound), 1.0)
    return f"up to {above:5.0%} missing"


def _progressive(data: bytes) -> bytes:
    target = BytesIO()
    Image.open(BytesIO(data)).save(target, "JPEG", quality=90, progressive=True)
    return target.getvalue()


def _side(pixels: Pixels, scorer: CpuScorer) -> Pixels:
    return resize(pixels, scorer.image_size_px)


if __name__ == "__main__":
    main()
