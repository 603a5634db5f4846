"""A small labelled set unlike UTKFace: a Parquet file of drawn photographs, with ages as ranges and columns of its own names."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agegender.data.images import decode, encode_jpeg
from agegender.data.synthetic import draw_sample
from tests.support.corpus import pixels_of

MARGIN_PX = 60
RACES = ("East Asian", "Black")


def write_photographs(path: Path, count: int, seed: int = 5, more: list[bytes] | None = None) -> None:
    """``count`` drawings, each in the middle of a grey picture, as columns ``image``, ``years``, ``sex`` and ``people``.

    Args:
        path: of the file.
        count: of the drawings.
        seed: of the drawings.
        more: further images, as they are, labelled 20-29 and female.
    """
    rows = []
    for index in range(count):
        name, data = draw_sample(index, seed, 160)
        age, gender = (int(part) for part in name.split("_")[:2])
        drawn = np.pad(
            pixels_of(decode(data, 10**8)), ((MARGIN_PX,) * 2, (MARGIN_PX,) * 2, (0, 0)), constant_values=120
        )
        decade = age // 10 * 10
        label = {"years": f"{decade}-{decade + 9}", "sex": ("Male", "Female")[gender], "people": RACES[index % 2]}
        rows.append({"image": encode_jpeg(drawn), **label})
    rows += [{"image": data, "years": "20-29", "sex": "Female", "people": RACES[0]} for data in more or []]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=32)
