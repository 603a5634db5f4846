"""What Prometheus would scrape from a head, held to what the jobs that ran there say of themselves."""

import json
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.chaos.test_predict_deaths import DIE, write_some_deadly
from tests.cluster.conftest import RayJob
from tests.support.decoders import decoding_environment
from tests.support.drawn import write_faces

Samples = Counter[tuple[str, str, str]]
"""(name, command, status or activity) -> sum over all processes."""

COMMAND = ("--", "agegender")


@pytest.fixture
def scrape(ray_head: str, head_ports: dict[str, int]) -> Callable[[], Samples]:
    """What our names say at this moment; the head serves all tests, so that only differences tell."""

    def read() -> Samples:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{head_ports['metrics-export-port']}/metrics", timeout=60) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        found: Samples = Counter()
        for sample in (each for family in families for each in family.samples):
            if sample.name.startswith("ray_agegender_"):
                labels = sample.labels
                of = labels.get("status") or labels.get("activity") or ""
                key = sample.name.removeprefix("ray_"), labels["command"], of
                found[key] += sample.value  # type: ignore[assignment]  # seconds; typeshed knows Counters of whole numbers
        return found

    return read


def test_predict_counts_what_its_record_says_and_what_its_log_tells_of_losses(
    ray_job: RayJob, scrape: Callable[[], Samples], tiny_model: Path, tmp_path: Path
) -> None:
    faces, output = tmp_path / "faces", tmp_path / "out"
    write_some_deadly(faces, 40, deadly=[7])
    (faces / "empty.jpg").write_bytes(b"")
    (faces / "text.jpg").write_bytes(b"no image")
    flags = ["--input", faces, "--output", output, "--model", tiny_model, "--faces", "none", "--unit-images", "16"]
    limits = ["--num-workers", "1", "--max-bad-fraction", "1"]
    trap = decoding_environment(tmp_path / "trap", DIE)
    environment = ["--runtime-env-json", json.dumps({"env_vars": trap})]
    command = [*COMMAND, "predict", *map(str, flags), *limits]
    before = scrape()

    done = ray_job("submit", "--submission-id", "metrics-predict", *environment, *command)

    assert done.returncode == 0, done.stdout + done.stderr
    log = ray_job("logs", "metrics-predict").stdout
    result = json.loads((output / "_run.json").read_text())["result"]
    new = scrape() - before
    by_status = {of: n for (name, command, of), n in new.items() if name == "agegender_images_total"}
    assert by_status == result["by_status"] == {"ok": 39, "empty": 1, "not_an_image": 1, "unreadable": 1}
    assert new["agegender_units_total", "predict", ""] == 3
    assert new["agegender_isolated_images_total", "predict", ""] == 1
    assert new["agegender_workers_lost_total", "predict", ""] == log.count("a scoring process ended at") > 2
    assert new["agegender_unit_retries_total", "predict", ""] == 2
    seconds = {of: s for (name, _, of), s in new.items() if name == "agegender_worker_seconds_total"}
    assert seconds.keys() == {"wait", "load", "fetch", "decode", "score", "write", "other"}
    assert sum(seconds.values()) < result["seconds"], "one worker"


def test_the_other_commands_count_their_images(
    ray_job: RayJob, scrape: Callable[[], Samples], tiny_model: Path, tmp_path: Path
) -> None:
    faces = tmp_path / "faces"
    write_faces(faces, 60)
    (faces / "text.jpg").write_bytes(b"no image")
    settings = ["--image-size-px", "32", "--epochs", "2", "--batch-size", "16", "--val-fraction", "0.2"]
    flags = {"eda": [], "evaluate": ["--model", str(tiny_model)], "train": settings}
    before = scrape()

    for command, own in flags.items():
        source = ["--input", str(faces), "--output", str(tmp_path / command)]
        done = ray_job("submit", "--submission-id", f"metrics-{command}", *COMMAND, command, *source, *own)
        assert done.returncode == 0, done.stdout + done.stderr

    new = scrape() - before
    images = {(command, of): n for (name, command, of), n in new.items() if name == "agegender_images_total"}
    looked_at = {(command, of): n for command in ("eda", "train") for of, n in (("ok", 60), ("not_an_image", 1))}
    assert images == looked_at | {("evaluate", "any"): 61}
    epochs = [json.loads(line) for line in (tmp_path / "train" / "metrics.jsonl").read_text().splitlines()]
    assert new["agegender_train_images_total", "train", ""] == sum(epoch["train_images"] for epoch in epochs)
