"""`igd evaluate` on the CIFAR-10 model: its published accuracy, and pyautoattack's verdicts, shards and seeds alike."""

import os
from pathlib import Path

import pyautoattack
import pytest
import torch

from igd_ray.catalog import Catalog, run_query
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.verbs.evaluate import evaluate
from tests.toys.sessions import session_for

# The full comparison takes about 20 minutes: IGD_PARITY_IMAGES=256, in shards of 64. Of the first ten images two are
# robust, so that all stages run.
IMAGES = int(os.environ.get("IGD_PARITY_IMAGES", "10"))
SHARD_SIZE = min(64, max(8, IMAGES // 4))

pytestmark = pytest.mark.slow


def settings_for(catalog: Path, shared: Path, **changes: object) -> EvaluateSettings:
    given = {
        "model": f"{shared / 'models' / 'cifar_resnet.py'}:resnet18",
        "weights": str(shared / "models" / "cifar10_resnet18_w16.safetensors"),
        "model_arg": {"width": 16},
        "data": f"parquet:{shared / 'data' / 'cifar10' / 'test.parquet'}",
        "classes": "cifar10",
        "catalog": str(catalog),
    }
    return load_settings(EvaluateSettings, file=None, given={**given, **changes})


def test_verdicts_of_none_are_those_of_pyautoattack_shard_by_shard(tmp_path: Path, shared: Path) -> None:
    settings = settings_for(tmp_path / "results", shared, attacks="aa", n=IMAGES, shard_size=SHARD_SIZE)
    with session_for(settings) as session:
        workspace = session.workspace
        assert not evaluate(session, plan_evaluation(workspace)).failed
        table = run_query(Catalog(settings.catalog), "SELECT image_id, status, seed FROM outcomes")
        outcomes = {row["image_id"]: row for row in table.to_pylist()}
        assert {row["status"] for row in outcomes.values()} == {"robust", "broken", "misclassified"}
        images, labels = workspace.test.images, workspace.test.labels
        for start in range(0, IMAGES, SHARD_SIZE):
            ids = workspace.test.ids[start : start + SHARD_SIZE]
            seeds = {outcomes[image_id]["seed"] for image_id in ids}
            assert len(seeds) == 1
            attack = pyautoattack.AutoAttack(
                workspace.model, eps=settings.threat.epsilon, norm="Linf", seed=seeds.pop(), version="standard"
            )
            shard = slice(start, start + SHARD_SIZE)
            adversarial, _ = attack.run_standard_evaluation(images[shard], labels[shard], batch_size=SHARD_SIZE)
            with torch.no_grad():
                robust = workspace.model(adversarial).argmax(dim=1) == labels[shard]
            assert [outcomes[image_id]["status"] == "robust" for image_id in ids] == robust.tolist()


@pytest.mark.parametrize(("images", "published"), [(200, 0.705), (10_000, 0.7015)])
def test_clean_accuracy_is_the_published_one(tmp_path: Path, shared: Path, images: int, published: float) -> None:
    settings = settings_for(tmp_path / "results", shared, attacks="clean", n=images, shard_size=500)
    with session_for(settings) as session:
        workspace = session.workspace
        assert not evaluate(session, plan_evaluation(workspace)).failed
    (row,) = run_query(Catalog(settings.catalog), "SELECT n, clean_accuracy FROM worst_case").to_pylist()
    assert row["n"] == images
    assert row["clean_accuracy"] == pytest.approx(published, abs=5e-5)
