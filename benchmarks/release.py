"""Put a trained and evaluated model into the package, with its card, its terms and the golden values of its test.

    make release MODEL=fast UTKFACE=path/to/UTKFace FAIRFACE=path/to/fairface ALLAGEFACES=path/to/allagefaces

trains and evaluates it, then runs this. Refuses an evaluation of another model or of images that the model has seen, and as
`open` whatever has learnt from more than FairFace.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from release_card import Made, card, weights_license
from release_sets import PRETRAINED, SETS, TUNED

from agegender import released
from agegender.artifact import INFO_FILE, ModelInfo, image_keys
from agegender.config import RELEASED_MODELS
from agegender.data.synthetic import draw_face
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.load import open_model, training_images

GOLDEN = Path(__file__).parents[1] / "tests" / "unit" / "scoring" / "golden"

FACES = [(2, 0), (9, 1), (24, 0), (35, 1), (52, 0), (78, 1)]
"""Age and gender of the synthetic faces whose predictions are the golden values."""


def main() -> None:
    """Check, copy, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=RELEASED_MODELS, required=True, help="the name to release it under")
    parser.add_argument("--train", type=Path, required=True, help="OUTPUT of agegender train")
    parser.add_argument("--evaluation", type=Path, required=True, help="OUTPUT of agegender evaluate --robustness")
    parser.add_argument("--sets", choices=SETS, nargs="+", required=True, help="what its inputs are, in their order")
    parser.add_argument("--flags", required=True, help="what train was given beside its inputs, for the card")
    given = parser.parse_args()
    metrics = json.loads((given.evaluation / "metrics.json").read_text())
    check_evaluation(metrics, open_model(given.train / "model"), given.sets)
    split = pq.read_table(given.train / "split.parquet")
    ancestors = list(lineage(str(given.train / "model")))
    if given.model == "open":
        check_open(ancestors, given.sets, image_keys(split["content_hash"].to_pylist()))
    target = released.folder(given.model)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(given.train / "model", target)
    forget_places(target)
    slices = pq.read_table(given.evaluation / "slices.parquet").to_pylist()
    made = Made(given.model, target, given.sets, given.flags, pretrained(ancestors))
    (target.parent / "MODEL_CARD.md").write_text(card(made, metrics, slices, split.to_pylist()))
    (target.parent / "WEIGHTS_LICENSE.md").write_text(weights_license(made))
    (GOLDEN / f"{given.model}.json").write_text(json.dumps(golden(target), indent=1) + "\n")
    print(f"{target.parent}, {GOLDEN / given.model}.json: look at the difference and commit it")


def check_evaluation(metrics: dict[str, Any], info: ModelInfo, sets: list[str]) -> None:
    """Refuse metrics that the card may not show.

    Raises:
        SystemExit: of another model, of images that it has seen, or of another number of sets.
    """
    if metrics["model"]["model_id"] != info.model_id or metrics["seen_in_training"]["images"]:
        raise SystemExit(f"the evaluation is of another model than {info.model_id}, or of images that it has seen")
    if len(metrics["input"]) != len(sets):
        raise SystemExit(f"--sets names {len(sets)} sets, the evaluation has {len(metrics['input'])} inputs")


@dataclass(frozen=True)
class Ancestor:
    """A model, or one that it began as or that taught it, and so on."""

    address: str
    weights: str | None
    """Of another network, which its backbone began as."""

    images: npt.NDArray[np.uint64]
    """Keys of what it was trained and calibrated on, sorted."""


def lineage(address: str) -> Iterator[Ancestor]:
    """A model and all that it has learnt from; the terms of each pass on to it.

    Raises:
        InputError: one of them is not there, or no model of this package.
    """
    if address.endswith((".safetensors", ".pth")):
        yield Ancestor(address, address, np.zeros(0, np.uint64))
        return
    folder = released.folder(address) if address in RELEASED_MODELS else Path(address)
    config = open_model(folder).config
    weights = config.get("weights")
    yield Ancestor(address, weights, training_images(folder))
    begun_as = (
        str(Path(weights).parent) if weights and (Path(weights).parent / INFO_FILE).exists() else config.get("init")
    )
    for parent in (*filter(None, [begun_as]), *config.get("teacher", [])):
        yield from lineage(parent)


def pretrained(ancestors: Sequence[Ancestor]) -> str:
    """What the card and the terms say of networks that others have trained; empty if there is none."""
    began_as = [Path(each.weights).stem for each in ancestors if each.weights]
    if not began_as:
        return ""
    who = "Its backbone" if ancestors[0].weights else "A network that it began as, or that taught it,"
    return " ".join([f"{who} {PRETRAINED}", *(TUNED[name] for name in sorted(set(began_as) & TUNED.keys()))])


def check_open(ancestors: Sequence[Ancestor], sets: list[str], keys: npt.NDArray[np.uint64]) -> None:
    """Refuse to offer weights under CC BY 4.0 that have learnt from other data than FairFace, or from what has.

    Args:
        ancestors: of the model, itself first.
        sets: that the model learnt from.
        keys: of all images of FairFace in its split.

    Raises:
        SystemExit: names what it learnt from.
    """
    others = [name for name in sets if name != "fairface"]
    for each in ancestors:
        unknown = np.count_nonzero(~np.isin(each.images, keys))
        others += [f"{each.weights} ({each.address})"] * bool(each.weights)
        others += [f"{unknown} images that are not in its split ({each.address})"] * bool(unknown)
    if others:
        raise SystemExit(f"open learns from FairFace alone, and this model has learnt from {', '.join(others)}")


def forget_places(model: Path) -> None:
    """Leave of the addresses in model.json their last part: where they were on one machine helps nobody."""
    info = open_model(model)
    for name in ("input", "weights", "init", "teacher", "detector_model"):
        if value := info.config.get(name):
            info.config[name] = [last(each) for each in value] if isinstance(value, list) else last(value)
    (model / INFO_FILE).write_text(info.model_dump_json(indent=2))


def last(address: str) -> str:
    """The last part of an address, with the folder's slash if it has one."""
    return address.rstrip("/").rpartition("/")[2] + "/" * address.endswith("/")


def golden(model: Path) -> dict[str, Any]:
    """The model's predictions for synthetic faces."""
    scorer = CpuScorer(model)
    drawn = np.stack([draw_face(age, gender, i, scorer.image_size_px) for i, (age, gender) in enumerate(FACES)])
    predictions = scorer.score(drawn)
    names = ("age_years", "age_low_years", "age_high_years", "female_probability")
    return {"faces": FACES} | {name: [round(float(v), 4) for v in getattr(predictions, name)] for name in names}


if __name__ == "__main__":
    main()
