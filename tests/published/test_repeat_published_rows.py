"""A small part of the published rows, computed again."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from published import REPOSITORY

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main

# The published runs' units are of 32 images; what a unit computes depends on which images it holds.
SHARD = 32
# Another processor rounds differently, which may flip an image that stands on the edge.
MOST_FLIPPED = 1


@pytest.mark.slow
def test_the_first_shard_under_transferred_autoattack_gives_the_published_verdicts(
    shared: Path, tmp_path: Path
) -> None:
    published = pq.read_table(REPOSITORY / "docs" / "results" / "cifar10-defenses.parquet").to_pylist()
    defenses = list(dict.fromkeys(row["defense"] for row in published))
    catalog = tmp_path / "results"
    arguments = ["evaluate", "--model", f"{shared}/models/cifar_resnet.py:resnet18", "--model-arg", "width=16"]
    arguments += ["--weights", f"{shared}/models/cifar10_resnet18_w16.safetensors", "--classes", "cifar10"]
    arguments += ["--data", f"parquet:{shared}/data/cifar10/{{split}}.parquet"]
    arguments += ["--clip", f"{shared}/models/cifar10_tiny_clip.json", "--defenses", ",".join(defenses)]
    arguments += ["--attacks", "tr-aa", "--n", str(SHARD), "--shard-size", str(SHARD), "--catalog", str(catalog)]
    assert main([*arguments, "--executor", "local"]) == 0
    verdicts = {(row["defense"], row["image_id"]): row["status"] for row in published if row["attack"] == "tr-aa"}
    flipped = dict.fromkeys(defenses, 0)
    repeated = run_query(Catalog(catalog), "SELECT defense, image_id, status FROM outcomes").to_pylist()
    assert len(repeated) == SHARD * len(defenses)
    for row in repeated:
        flipped[row["defense"]] += row["status"] != verdicts[row["defense"], row["image_id"]]
    assert max(flipped.values()) <= MOST_FLIPPED, flipped
