import re
from pathlib import Path

import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


def test_the_launcher_file_is_valid_and_fits_the_project() -> None:
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    validate_config(prepare_config(config))
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"]["CPU"] == 0
    # Ray's schema misses a minimum above the maximum.
    assert all(kind["min_workers"] <= kind["max_workers"] for kind in types.values())
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned
    assert f":{pinned[1]}-py" in config["docker"]["image"]
