"""Several nodes: the same rows as on one, nodes that join while a job runs, and paths that nodes do not share."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray.cluster_utils import Cluster

from agegender.pipelines.runtime.session import ray_session
from agegender.training_config import TrainConfig
from tests.support.decoders import held_up
from tests.support.drawn import write_faces
from tests.support.nodes import add_node, started_cluster
from tests.support.runs import predict_flags, rows_of, started

IMAGES = 40


@pytest.fixture(scope="module")
def many_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, IMAGES)
    return folder


@pytest.fixture(scope="module")
def on_one_node(many_faces: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    output = tmp_path_factory.mktemp("one") / "out"
    with started(predict_flags(many_faces, tiny_model, output, "--num-cpus", "2")) as run:
        assert run.end() == 0, run.log
    return rows_of(output)


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    with started_cluster([1, 1]) as cluster:
        yield cluster


@pytest.mark.parametrize("asked_for", [[], ["--num-workers", "3"]], ids=["what there is", "more than there is"])
def test_nodes_that_join_are_used_and_the_rows_are_those_of_one_node(
    asked_for: list[str], many_faces: Path, tiny_model: Path, on_one_node: pa.Table, tmp_path: Path
) -> None:
    variables, hold = held_up(tmp_path / "held")
    hold.touch()
    with started_cluster([1, 1], variables) as cluster:
        flags = ["--address", cluster.address, "--shared-storage", *asked_for]
        with started(predict_flags(many_faces, tiny_model, tmp_path / "out", *flags)) as run:
            run.wait_for("scoring in 2 processes on 2 nodes")
            add_node(cluster, 1)
            run.wait_for("scoring in 3 processes on 3 nodes")
            hold.unlink()
            assert run.end() == 0, run.log
    assert rows_of(tmp_path / "out").equals(on_one_node)


def test_paths_that_are_not_shared_keep_the_work_on_the_node_of_the_driver(
    many_faces: Path, tiny_model: Path, on_one_node: pa.Table, tmp_path: Path
) -> None:
    variables, hold = held_up(tmp_path / "held")
    hold.touch()
    with started_cluster([1], variables) as cluster:
        flags = ["--address", cluster.address, "--num-workers", "2"]
        with started(predict_flags(many_faces, tiny_model, tmp_path / "out", *flags)) as run:
            run.wait_for("scoring in 1 processes on 1 nodes")
            add_node(cluster, 1)
            run.wait_for("scoring in 1 processes on 1 nodes; 1 more are pending: insufficient CPUs")
            hold.unlink()
            assert run.end() == 0, run.log
    assert "on 2 nodes" not in run.log
    assert rows_of(tmp_path / "out").equals(on_one_node)


@pytest.mark.parametrize("job", ["eda", "train", "evaluate", "predict"])
def test_local_paths_are_refused_on_several_nodes(
    job: str, two_nodes: Cluster, many_faces: Path, tmp_path: Path
) -> None:
    flags = ["--input", str(many_faces), "--output", str(tmp_path / "out"), "--address", two_nodes.address]
    with started([job, *flags, *(["--faces", "none"] if job == "predict" else [])]) as run:
        assert run.end() == 2
    assert f"--output {tmp_path}/out, --input {many_faces}: local paths, but the work runs on 2 nodes" in run.log
    assert "--shared-storage" in run.log
    assert not (tmp_path / "out").exists()


def test_a_head_without_cpus_refuses_local_paths_before_its_nodes_are_there(many_faces: Path, tmp_path: Path) -> None:
    with started_cluster([0]) as cluster:
        flags = ["--input", str(many_faces), "--output", str(tmp_path / "out"), "--address", cluster.address]
        with started(["eda", *flags]) as run:
            assert run.end() == 2
    assert "the work runs on another machine than the driver's" in run.log


def test_training_on_gpus_reserves_what_the_nodes_with_gpus_have() -> None:
    from agegender.pipelines.train.fit import reserved_cpus  # imports torch, which the other tests need not wait for

    with started_cluster([8]) as cluster:  # Ray takes the numbers of CPUs and GPUs on trust
        add_node(cluster, 6, num_gpus=2)
        with ray_session(cluster.address):
            assert ray.cluster_resources()["GPU"] == 2
            for workers, cpus in ((1, 3.0), (2, 3.0), (3, 3.0)):
                config = TrainConfig(input=["a"], output="b", use_gpu=True, num_workers=workers)
                assert reserved_cpus(config) == cpus
