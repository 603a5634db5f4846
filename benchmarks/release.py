"""Put a trained and evaluated model into the package, with its card and the golden values of its test.

    make release UTKFACE=path/to/UTKFace

trains and evaluates it, then runs this. Refuses an evaluation of another model, or of images that the model has seen.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from agegender import released
from agegender.data.synthetic import draw_face
from agegender.schema import AGE_GROUPS
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.load import open_model, training_images, weight_training_images

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "tests" / "unit" / "scoring" / "released_golden.json"
CARD = Path(released.__file__).parent / "MODEL_CARD.md"

FACES = [(2, 0), (9, 1), (24, 0), (35, 1), (52, 0), (78, 1)]
"""Age and gender of the synthetic faces whose predictions are the golden values."""

LEAD = (
    ("age, mean absolute error, years", "age_mae_years", False),
    ("age, median error, years", "age_median_error_years", False),
    ("age, bias, years", "age_bias_years", False),
    ("age within 5 years", "age_within_5_years", True),
    ("gender accuracy", "gender_accuracy", True),
    ("coverage of the 90 % interval", "interval_coverage", True),
    ("mean width of the interval, years", "interval_width_years", False),
)


def main() -> None:
    """Check, copy, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="OUTPUT of agegender train")
    parser.add_argument("--evaluation", type=Path, required=True, help="OUTPUT of agegender evaluate --robustness")
    parser.add_argument("--flags", required=True, help="what train was given, for the card")
    given = parser.parse_args()
    metrics = json.loads((given.evaluation / "metrics.json").read_text())
    info = open_model(given.train / "model")
    if metrics["model"]["model_id"] != info.model_id or metrics["seen_in_training"]["images"]:
        raise SystemExit(f"{given.evaluation}: another model than {info.model_id}, or images that it has seen")
    shutil.rmtree(released.FOLDER, ignore_errors=True)
    shutil.copytree(given.train / "model", released.FOLDER)
    slices = pq.read_table(given.evaluation / "slices.parquet").to_pylist()
    CARD.write_text(card(metrics, slices, given.flags))
    GOLDEN.write_text(json.dumps(golden(), indent=1) + "\n")
    print(f"{released.FOLDER}, {CARD}, {GOLDEN}: look at the difference and commit it")


def golden() -> dict[str, Any]:
    """The model's predictions for synthetic faces."""
    scorer = CpuScorer(released.FOLDER)
    drawn = np.stack([draw_face(age, gender, i, scorer.image_size_px) for i, (age, gender) in enumerate(FACES)])
    predictions = scorer.score(drawn)
    names = ("age_years", "age_low_years", "age_high_years", "female_probability")
    return {"faces": FACES} | {name: [round(float(v), 4) for v in getattr(predictions, name)] for name in names}


def card(metrics: dict[str, Any], slices: list[dict[str, Any]], flags: str) -> str:
    """The text of MODEL_CARD.md."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), undefined=jinja2.StrictUndefined)
    template = environment.get_template("model_card.md.j2")
    return template.render(
        m=metrics,
        info=open_model(released.FOLDER),
        flags=flags,
        parameters=sum(value.size for value in load_file(released.FOLDER / "weights.safetensors").values()),
        weight_training_images=len(weight_training_images(released.FOLDER)),
        seen_images=len(training_images(released.FOLDER)),
        lead=LEAD,
        groups=[
            (title, column, [row for row in slices if row["slice"] == column])
            for title, column in (("age group", "age_group"), ("gender", "gender"), ("race", "race"))
        ],
        conditions=[("as they are", metrics), *((w["what"], w) for w in metrics["robustness"].values())],
        age_groups=AGE_GROUPS,
        **{
            f"by_{by}": {row["age_group"]: row for row in rows} for by, rows in metrics["interval_by_age_group"].items()
        },
        bounds_of=lambda row: f"{number(row['coverage'], True)} ({100 * row['low']:.0f} to {100 * row['high']:.0f})",
        number=number,
        cell=cell,
        bounded=lambda share: (
            f"{number(share['value'], True)} ({number(share['low'], True)} to {number(share['high'], True)})"
        ),
    )


def number(value: float, share: bool = False) -> str:
    """Two digits for years, a percentage for shares."""
    return f"{100 * value:.1f} %" if share else f"{value:.2f}"


def cell(row: dict[str, Any], metric: str, share: bool = False) -> str:
    """A value with its bounds, short."""
    scale, digits = (100, 0) if share else (1, 1)
    value, low, high = (f"{scale * row[f'{metric}{end}']:.{digits}f}" for end in ("", "_low", "_high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    main()
