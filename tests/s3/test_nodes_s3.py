"""Several nodes that share nothing but S3: the rows of one node, and a model that is as good as one node's."""

from typing import Any

import pytest

from agegender.storage import files
from tests.support.drawn import write_faces
from tests.support.nodes import started_cluster
from tests.support.runs import rows_of, started

IMAGES = 240
TRAIN = (
    "--image-size-px",
    "32",
    "--preset",
    "notebook",
    "--epochs",
    "4",
    "--num-workers",
    "2",
    "--val-fraction",
    "0.2",
)


@pytest.fixture
def faces(s3_bucket: str) -> str:
    write_faces(f"{s3_bucket}/faces", IMAGES)
    return f"{s3_bucket}/faces"


def run(job: str, source: str, output: str, *more: str) -> None:
    with started([job, "--input", source, "--output", output, "--unit-images", "16", *more]) as running:
        assert running.end() == 0, running.log


def age_error(source: str, model: str, output: str) -> dict[str, Any]:
    run("evaluate", source, output, "--model", model)
    error: dict[str, Any] = files.read_json(f"{output}/metrics.json")["age_mae_years"]
    return error


def test_two_nodes_train_a_model_as_good_and_score_the_same_rows(s3_bucket: str, faces: str) -> None:
    one, two = f"{s3_bucket}/one", f"{s3_bucket}/two"
    run("train", faces, f"{one}/train", *TRAIN)
    scored = ("--faces", "none", "--model", f"{one}/train/model")
    run("predict", faces, f"{one}/out", *scored)
    with started_cluster([1, 1]) as cluster:  # one CPU each: two workers stand on two nodes
        run("train", faces, f"{two}/train", *TRAIN, "--address", cluster.address)
        run("predict", faces, f"{two}/out", *scored, "--address", cluster.address)
        run("eda", faces, f"{two}/eda", "--address", cluster.address)
    bounds, other = (age_error(faces, f"{place}/train/model", f"{place}/evaluation") for place in (one, two))
    assert bounds["low"] <= other["value"] <= bounds["high"]
    assert files.read_json(f"{two}/eda/summary.json")["images"] == IMAGES
    assert rows_of(f"{two}/out").equals(rows_of(f"{one}/out"))
