"""A pack of drawn faces, made without a source and without Ray."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from agegender.artifact import NetworkConfig
from agegender.data import pack
from agegender.data.duplicates import content_hash
from agegender.data.splits import split_hash
from agegender.data.synthetic import draw_face
from agegender.schema import SPLIT
from agegender.training_config import TrainConfig


def drawn_split(count: int, side_px: int) -> tuple[pa.Table, npt.NDArray[np.uint8]]:
    """Rows of a split of the input ``faces``, every fourth of them for validation, and their pixels."""
    rng = np.random.default_rng(0)
    ages, genders = rng.integers(2, 90, count), rng.integers(0, 2, count)
    pixels = np.stack([draw_face(ages[i], genders[i], i, side_px) for i in range(count)])
    none = {field.name: None for field in SPLIT}
    rows = [
        none
        | {
            "uri": f"/faces/{i}.jpg",
            "content_hash": content_hash(pixels[i].tobytes()),
            "group": content_hash(pixels[i].tobytes()),
            "part": "val" if i % 4 == 3 else "train",
            **{name: float(ages[i]) for name in ("age_years", "age_low_years", "age_high_years")},
            "gender": int(genders[i]),
            "source": "faces",
        }
        for i in range(count)
    ]
    return pa.Table.from_pylist(rows, SPLIT), pixels


def write_pack(folder: Path, count: int = 40, side_px: int = 32, **settings: Any) -> TrainConfig:
    """Write a pack without loss; returns the config of its training."""
    rows, pixels = drawn_split(count, side_px)
    config = TrainConfig(input=["faces"], output="out", image_size_px=side_px, **settings)
    folder.mkdir(parents=True)
    written = {}
    for name, data in pack.packed_files(rows, pixels, np.ones(count, np.bool_), "lossless", 80, 10**6, threads=1):
        (folder / name).write_bytes(data)
        written[name] = hashlib.sha256(data).hexdigest()
    parts = rows["part"].to_pylist()
    info = pack.PackInfo(
        config=config.model_dump(mode="json"),
        network=NetworkConfig(**{name: getattr(config, name) for name in NetworkConfig.model_fields}),
        split_hash=split_hash(rows),
        images={part: parts.count(part) for part in ("train", "val")},
        image_format="lossless",
        files=written,
        created_by="a test",
    )
    (folder / pack.INFO_FILE).write_text(info.model_dump_json())
    return config
