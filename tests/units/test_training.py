"""SODEF's training as units: it resumes after any epoch, to the same bits, and depends on what its key says."""

import pickle
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from igd_ray.catalog import Catalog
from igd_ray.data import LabeledImages, load_images
from igd_ray.defenses.sodef import SodefDefense, SodefHead, SodefTraining
from igd_ray.errors import IncompleteError, InputError
from igd_ray.execution.executor import LocalExecutor
from igd_ray.execution.session import RunSummary, run_units
from igd_ray.models import Layer, find_layer, load_model, model_fingerprint
from igd_ray.planning.training import SodefPlan, plan_epochs, training_table
from igd_ray.units.arrays import read_arrays
from igd_ray.units.base import Unit, is_done, shards_of
from igd_ray.units.replica import ImageArrays, ModelSource, WorkerSetup
from igd_ray.units.training import load_trained

SETTINGS = SodefTraining(projection_epochs=2, stability_epochs=2, classifier_epochs=2, batch_size=16, steps=10)
IMAGES = load_images("digits", split="train", n=200)
MODEL = load_model("demo")
LAYER = find_layer(MODEL, "penultimate", IMAGES.images[:1])


def plan_of(
    images: LabeledImages = IMAGES,
    *,
    settings: SodefTraining = SETTINGS,
    size: int = 64,
    seed: int = 0,
    model: str = "",
) -> SodefPlan:
    shards = shards_of("probe", images, size)
    return plan_epochs(model or model_fingerprint(MODEL), LAYER, shards, 10, settings, seed)


def catalog_in(folder: Path) -> Catalog:
    catalog = Catalog(folder / "results")
    catalog.create()
    return catalog


def run(catalog: Catalog, units: list[Unit], images: LabeledImages = IMAGES) -> RunSummary:
    source = ModelSource("demo", None, {}, model_fingerprint(MODEL))
    setup = WorkerSetup(source, str(catalog.root), {"probe": ImageArrays.of(images)})
    with LocalExecutor(setup, device="cpu") as executor:
        return run_units(executor, catalog, units, title="train sodef")


def test_a_training_is_a_unit_for_each_shard_and_each_epoch(tmp_path: Path) -> None:
    catalog, plan = catalog_in(tmp_path), plan_of()
    assert [unit.kind for unit in plan.units] == ["activations"] * 4 + ["sodef-epoch"] * 6
    summary = run(catalog, plan.units)
    assert (summary.computed, summary.failed) == (10, ())
    again = run(catalog, plan_of().units)
    assert (again.reused, again.computed) == (10, 0)


def test_each_epoch_needs_the_features_and_the_epoch_before() -> None:
    plan = plan_of()
    features = {unit.key for unit in plan.features}
    assert plan.epochs[0].needs == features
    for before, after in pairwise(plan.epochs):
        assert after.needs == features | {before.key}
    assert plan.training_id == plan.epochs[-1].key


def test_an_epoch_covers_all_training_images() -> None:
    shard = plan_of().epochs[0].shard
    assert (shard.images, shard.start, shard.stop, shard.ids) == ("probe", 0, 200, IMAGES.ids)


@pytest.mark.parametrize("interrupted_after", [0, 1, 2, 4, 5])
def test_an_interrupted_training_goes_on_at_the_next_epoch_to_the_same_bits(
    tmp_path: Path, interrupted_after: int
) -> None:
    straight, plan = catalog_in(tmp_path / "straight"), plan_of()
    run(straight, plan.units)
    resumed = catalog_in(tmp_path / "resumed")
    first = run(resumed, [*plan.features, *plan.epochs[:interrupted_after]])
    assert first.computed == 4 + interrupted_after
    # A plan of its own, as another process makes it.
    second = run(resumed, plan_of().units)
    assert (second.reused, second.computed) == (4 + interrupted_after, 6 - interrupted_after)
    for unit in plan.epochs:
        expected, found = read_arrays(straight, unit.key), read_arrays(resumed, unit.key)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_unit_travels_to_another_process() -> None:
    unit = plan_of().epochs[2]
    assert pickle.loads(pickle.dumps(unit)).key == unit.key


def test_the_head_is_that_of_the_last_epoch_and_trained(tmp_path: Path) -> None:
    catalog, plan = catalog_in(tmp_path), plan_of()
    run(catalog, plan.units)
    head = SodefHead(load_trained(catalog, plan.training_id))
    state = read_arrays(catalog, plan.epochs[-1].key)
    assert torch.equal(head.projection, state["projection"])
    assert (head.width, head.time, head.steps) == (LAYER.width, 5.0, 10)
    with torch.no_grad():
        predictions = SodefDefense(MODEL, head, layer=LAYER)(IMAGES.images).argmax(dim=1)
    assert (predictions == IMAGES.labels).double().mean() > 0.9


def test_labels_go_with_their_features(tmp_path: Path) -> None:
    """Trained on shifted labels, the head predicts shifted labels; a mix-up of rows would give chance."""
    shifted = replace(IMAGES, labels=(IMAGES.labels + 1) % 10)
    catalog, plan = catalog_in(tmp_path), plan_of(shifted)
    run(catalog, plan.units, shifted)
    head = SodefHead(load_trained(catalog, plan.training_id))
    with torch.no_grad():
        predictions = SodefDefense(MODEL, head, layer=LAYER)(IMAGES.images).argmax(dim=1)
    assert (predictions == (IMAGES.labels + 1) % 10).double().mean() > 0.9


def test_an_unfinished_training_gives_no_head(tmp_path: Path) -> None:
    catalog, plan = catalog_in(tmp_path), plan_of()
    with pytest.raises(IncompleteError, match="is not finished; run the same command again"):
        load_trained(catalog, plan.training_id)
    run(catalog, [*plan.features, *plan.epochs[:2]])
    with pytest.raises(IncompleteError, match="is not finished"):
        load_trained(catalog, plan.training_id)
    with pytest.raises(IncompleteError, match="is epoch 2 of 6 of a SODEF training, not its last"):
        load_trained(catalog, plan.epochs[1].key)


def test_the_table_of_a_training_has_the_committed_epochs(tmp_path: Path) -> None:
    catalog, plan = catalog_in(tmp_path), plan_of()
    assert training_table(catalog, plan).num_rows == 0
    run(catalog, [*plan.features, *plan.epochs[:3]])
    assert training_table(catalog, plan).num_rows == 3
    run(catalog, plan.units)
    rows = training_table(catalog, plan).to_pylist()
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["stage"] for row in rows] == ["projection"] * 2 + ["stability"] * 2 + ["classifier"] * 2
    assert [row["accuracy"] is None for row in rows] == [False, False, True, True, False, False]
    assert rows[0]["loss"] > rows[1]["loss"]
    assert rows[2]["loss"] > rows[3]["loss"]
    assert rows[4]["loss"] > rows[5]["loss"]


def test_a_failed_epoch_stops_those_after_it_and_nothing_else(tmp_path: Path) -> None:
    catalog, plan = catalog_in(tmp_path), plan_of()
    broken = replace(plan.epochs[2], num_classes=3, previous="0" * 32)
    summary = run(catalog, [*plan.features, *plan.epochs[:2], broken])
    assert [report.key for report in summary.failed] == [broken.key]
    assert not is_done(catalog, broken)
    assert run(catalog, plan.units).computed == 4


def test_every_key_depends_on_model_images_labels_settings_and_seed() -> None:
    plan = plan_of()
    others = [
        plan_of(model="0" * 32),
        plan_of(IMAGES.select(slice(0, 199))),
        plan_of(replace(IMAGES, labels=(IMAGES.labels + 1) % 10)),
        plan_of(settings=replace(SETTINGS, diagonal_weight=9.0)),
        plan_of(seed=1),
    ]
    for other in others:
        assert not {unit.key for unit in plan.epochs} & {unit.key for unit in other.epochs}
    assert [unit.key for unit in plan_of().units] == [unit.key for unit in plan.units]


def test_the_features_are_those_of_a_search_on_the_same_images() -> None:
    """Settings and seed are the training's own, so other trainings use the same features."""
    plan, other = plan_of(), plan_of(settings=replace(SETTINGS, steps=20), seed=5)
    assert [unit.key for unit in plan.features] == [unit.key for unit in other.features]


def test_another_layer_and_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="its layer is the penultimate one, not 'layer2'"):
        plan_epochs("0" * 32, Layer("layer2", "layer2", "output", (8, 4, 4)), (), 10, SETTINGS, 0)
    with pytest.raises(InputError, match="at least one training image"):
        plan_epochs("0" * 32, LAYER, (), 10, SETTINGS, 0)
