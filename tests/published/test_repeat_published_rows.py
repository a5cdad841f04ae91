"""A small part of the published rows, computed again."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from tests.published.published import PUBLISHED_EOT, REPOSITORY

# The published runs' units are of 32 images; what a unit computes depends on which images it holds.
SHARD = 32
# Another processor rounds differently, which may flip an image that stands on the edge.
MOST_FLIPPED = 1

# Rays on the base model takes minutes.
ATTACKS = {
    "cifar10-defenses": ["tr-aa"],
    "cifar10-worst-case": ["tr-apgd-ce", "tr-apgd-cw", "tr-apgd-t-dlr", "tr-apgd-eot"],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_on_the_base_model_have_the_published_keys(shared: Path, tmp_path: Path, name: str) -> None:
    """A catalog of published rows is reused: the same model, images and attacks give the same keys."""
    choice: dict[str, object] = {
        "model": f"{shared}/models/cifar_resnet.py:resnet18",
        "model_arg": {"width": 16},
        "weights": f"{shared}/models/cifar10_resnet18_w16.safetensors",
        "classes": "cifar10",
        "data": f"parquet:{shared}/data/cifar10/{{split}}.parquet",
        "defenses": "none",
        "attacks": ",".join(ATTACKS[name]),
        "n": SHARD,
        "shard_size": SHARD,
        "catalog": str(tmp_path / "results"),
    }
    plan = plan_evaluation(Workspace(load_settings(EvaluateSettings, file=None, given=choice)))
    rows = pq.read_table(REPOSITORY / "docs" / "results" / f"{name}.parquet", columns=["attack", "unit_key"])
    published = {(row["attack"], row["unit_key"]) for row in rows.to_pylist()}
    assert {(cell.attack, cell.unit.key) for cell in plan.cells} <= published
    assert len(plan.cells) == len(ATTACKS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_the_first_shard_under_transferred_attacks_gives_the_published_verdicts(
    shared: Path, tmp_path: Path, name: str
) -> None:
    rows = pq.read_table(REPOSITORY / "docs" / "results" / f"{name}.parquet").to_pylist()
    # In a cascade an attack skips what others broke; one that does not is the same in every run.
    mine = [row for row in rows if row["attack"] in ATTACKS[name] and row["run_id"] != PUBLISHED_EOT]
    cascades = {row["run_id"] for row in mine if row["status"] == "skipped"}
    published = [row for row in mine if row["run_id"] not in cascades]
    verdicts = {(row["defense"], row["attack"], row["image_id"]): row["status"] for row in published}
    defenses = list(dict.fromkeys(row["defense"] for row in published))
    catalog = tmp_path / "results"
    arguments = ["evaluate", "--model", f"{shared}/models/cifar_resnet.py:resnet18", "--model-arg", "width=16"]
    arguments += ["--weights", f"{shared}/models/cifar10_resnet18_w16.safetensors", "--classes", "cifar10"]
    arguments += ["--data", f"parquet:{shared}/data/cifar10/{{split}}.parquet"]
    arguments += ["--clip", f"{shared}/models/cifar10_tiny_clip.json", "--defenses", ",".join(defenses)]
    arguments += ["--attacks", ",".join(ATTACKS[name]), "--n", str(SHARD), "--shard-size", str(SHARD)]
    assert main([*arguments, "--catalog", str(catalog), "--executor", "local"]) == 0
    repeated = run_query(Catalog(catalog), "SELECT defense, attack, image_id, status FROM outcomes").to_pylist()
    assert len(repeated) == SHARD * len(defenses) * len(ATTACKS[name])
    flipped = dict.fromkeys(((row["defense"], row["attack"]) for row in repeated), 0)
    for row in repeated:
        image = row["defense"], row["attack"], row["image_id"]
        flipped[image[:2]] += row["status"] != verdicts[image]
    assert max(flipped.values()) <= MOST_FLIPPED, flipped
