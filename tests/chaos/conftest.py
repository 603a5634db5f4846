from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.drawn import write_faces
from tests.support.runs import predict_flags, rows_of, started

IMAGES = 240


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder, IMAGES)
    return folder


@pytest.fixture(scope="session")
def undisturbed(faces: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The rows of a run in which nothing happens."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    with started(predict_flags(faces, tiny_model, output, "--num-cpus", "2")) as run:
        assert run.end() == 0, run.log
    return rows_of(output)
