from pathlib import Path

import pyarrow as pa
import pytest

from agegender.data.synthetic import draw_sample
from tests.runs import predict_flags, rows_of, started

IMAGES = 240


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    for index in range(IMAGES):
        name, data = draw_sample(index, seed=3, size_px=48)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def undisturbed(faces: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The rows of a run in which nothing happens."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    with started(predict_flags(faces, tiny_model, output, "--num-cpus", "2")) as run:
        assert run.end() == 0, run.log
    return rows_of(output)
