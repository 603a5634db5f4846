"""Alternatives to `agegender predict --faces none`, each after its own documentation or common practice.

    python benchmarks/scoring_peers.py PEER --input UTKFace/ --model agegender/released/fast/model --count 4000 --output out.parquet

Same images, same model, same columns: uri, age with its interval, probability of female. ``benchmarks/scoring.py`` runs and
times them as whole processes. Peers:

torch-loop   two processes; Pillow, resize, float32 eager PyTorch in batches, Parquet at the end: the common way
graph-loop   the same loop with this project's decoder and graph in it, in its precision: the difference is the cost of the engine
ray-data     ray.data.read_images(...).map_batches(class).write_parquet(...), eager PyTorch
daft         Daft's download, decode_image and resize, a batch method of a class with two instances, write_parquet
decode       no peer: decoding and resizing alone, in two processes
forward      no peer: the graph alone on images that are decoded already, in two processes
"""

import argparse
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agegender.data.images import Pixels, decode, resize
from agegender.scoring.cpu import CpuScorer
from agegender.scoring.load import open_model
from agegender.scoring.predictions import Predictions

PROCESSES = 2
BATCH = 64
COLUMNS = ("age_years", "age_low_years", "age_high_years", "female_probability")


def main() -> None:
    """Run one peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    paths = sorted(str(path) for path in given.input.iterdir() if path.suffix == ".jpg")[: given.count]
    PEERS[given.peer](paths, given.model, given.output)


def torch_loop(paths: list[str], model: Path, output: Path) -> None:
    """A common inference loop."""
    _loop(_torch_part, paths, model, output)


def graph_loop(paths: list[str], model: Path, output: Path) -> None:
    """The same loop around this project's decoder and graph."""
    _loop(_graph_part, paths, model, output)


def _loop(part: Callable[..., pa.Table], paths: list[str], model: Path, output: Path) -> None:
    shares = [(paths[first::PROCESSES], model) for first in range(PROCESSES)]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pq.write_table(pa.concat_tables(pool.starmap(part, shares, chunksize=1)), output)


def _torch_part(paths: list[str], model: Path) -> pa.Table:
    import torch
    from PIL import Image

    from agegender.scoring.gpu import TorchScorer

    torch.set_num_threads(1)
    scorer = TorchScorer(model, device="cpu", batch_size=BATCH)
    side = scorer.image_size_px
    tables = []
    for batch in _batches(paths):
        images = [Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR) for path in batch]
        tables.append(_table(batch, scorer.score(np.stack([np.asarray(image) for image in images]))))
    return pa.concat_tables(tables)


def _graph_part(paths: list[str], model: Path) -> pa.Table:
    scorer = _scorer(model)
    side = scorer.image_size_px
    tables = [_table(batch, scorer.score(np.stack([_decoded(p, side) for p in batch]))) for batch in _batches(paths)]
    return pa.concat_tables(tables)


def _scorer(model: Path) -> CpuScorer:
    """In predict's precision on this machine."""
    return CpuScorer(model, threads=1, batch_size=BATCH, precision="auto")


def _decoded(path: str, side: int) -> Pixels:
    pixels = decode(Path(path).read_bytes(), 10**8).pixels
    assert pixels is not None, path
    return resize(pixels, side)


def _batches(paths: list[str]) -> Iterable[list[str]]:
    return (paths[start : start + BATCH] for start in range(0, len(paths), BATCH))


def _table(uris: Iterable[str], predictions: Predictions) -> pa.Table:
    return pa.table({"uri": pa.array(list(uris))} | {name: getattr(predictions, name) for name in COLUMNS})


def ray_data(paths: list[str], model: Path, output: Path) -> None:
    """Ray Data after its guide to batch inference; leaves CPUs for reading, without which it would wait forever."""
    import ray

    side = open_model(model).network.image_size_px

    class Scorer:
        def __init__(self) -> None:
            import torch

            from agegender.scoring.gpu import TorchScorer

            torch.set_num_threads(1)
            self._scorer = TorchScorer(model.absolute(), device="cpu", batch_size=BATCH)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            predictions = self._scorer.score(batch["image"])
            return {"uri": batch["path"]} | {name: getattr(predictions, name) for name in COLUMNS}

    ray.init(num_cpus=PROCESSES, include_dashboard=False, logging_level="ERROR")
    images = ray.data.read_images(paths, size=(side, side), mode="RGB", include_paths=True)
    scored = images.map_batches(
        Scorer, batch_size=BATCH, num_cpus=0.5, compute=ray.data.ActorPoolStrategy(size=PROCESSES)
    )
    scored.write_parquet(str(output))


def daft(paths: list[str], model: Path, output: Path) -> None:
    """Daft with its own reader, decoder and resize."""
    import daft
    from daft import DataType, Series, col

    side = open_model(model).network.image_size_px
    fields = DataType.struct({name: DataType.float32() for name in COLUMNS})

    @daft.cls(max_concurrency=PROCESSES, use_process=True)
    class Scorer:
        def __init__(self) -> None:
            import torch

            from agegender.scoring.gpu import TorchScorer

            torch.set_num_threads(1)
            self._scorer = TorchScorer(model, device="cpu", batch_size=BATCH)

        @daft.method.batch(return_dtype=fields, batch_size=BATCH)  # type: ignore[untyped-decorator]  # daft may be absent
        def score(self, images: Series) -> list[dict[str, float]]:
            predictions = self._scorer.score(np.stack(images.to_pylist()))
            columns = [getattr(predictions, name).tolist() for name in COLUMNS]
            return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]

    pictures = daft.from_pydict({"uri": paths}).with_column(
        "image", col("uri").download().decode_image(mode="RGB").resize(side, side)
    )
    predictions = pictures.with_column("predictions", Scorer().score(col("image")))
    columns = [col("uri"), *(col("predictions").get(name).alias(name) for name in COLUMNS)]
    predictions.select(*columns).write_parquet(str(output))


def decode_alone(paths: list[str], model: Path, output: Path) -> None:
    """Half of the limit."""
    _loop(_decode_part, paths, model, output)


def _decode_part(paths: list[str], model: Path) -> pa.Table:
    side = open_model(model).network.image_size_px
    return pa.table({"uri": paths, "red": [int(_decoded(path, side)[0, 0, 0]) for path in paths]})


def forward_alone(paths: list[str], model: Path, output: Path) -> None:
    """The other half of the limit: one decoded batch, over and over."""
    _loop(_forward_part, paths, model, output)


def _forward_part(paths: list[str], model: Path) -> pa.Table:
    scorer = _scorer(model)
    batch = np.stack([_decoded(path, scorer.image_size_px) for path in (paths * BATCH)[:BATCH]])
    return pa.concat_tables([_table(part, scorer.score(batch[: len(part)])) for part in _batches(paths)])


PEERS = {
    "torch-loop": torch_loop,
    "graph-loop": graph_loop,
    "ray-data": ray_data,
    "daft": daft,
    "decode": decode_alone,
    "forward": forward_alone,
}

if __name__ == "__main__":
    main()
