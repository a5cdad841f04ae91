"""What units of analyses measure on the embedded model, against the same by other means."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from igd_ray.catalog import Catalog
from igd_ray.config import AnalyzeSettings, load_settings
from igd_ray.data import load_images
from igd_ray.execution.analysis import run_analysis
from igd_ray.models import load_model
from igd_ray.planning.analyses import ANALYSES, AnalysisPlan
from igd_ray.units.analyses.loss_surface import orthogonal_signs
from tests.toys.sessions import session_for


def analyzed(folder: Path, analysis: str, **given: object) -> tuple[Catalog, AnalysisPlan]:
    known = {"executor": "local", "n": 12, "probe_n": 100, "search_n": 40, "catalog": str(folder / "results")}
    settings = load_settings(AnalyzeSettings, file=None, given={**known, "analysis": analysis, **given})
    session = session_for(settings)
    with session:
        plan = ANALYSES[analysis].plan(session.workspace)
        assert not run_analysis(session, plan).failed
    return Catalog(folder / "results"), plan


def test_activation_changes_are_those_of_the_stored_points(tmp_path: Path) -> None:
    """By NumPy, from the scores in the catalog, with what the layer before the classifier gives of stored points."""
    catalog, plan = analyzed(tmp_path, "activations", defenses="loir-4", attacks="pgd-5")
    model, digits = load_model("demo"), load_images("digits", n=12)
    inputs = []
    handle = model.linear.register_forward_hook(lambda _module, given, _output: inputs.append(given[0].numpy()))
    ranking = catalog.read("rankings", plan.rankings[0].ranking_id).to_pylist()
    best = {
        label: {row["neuron"] for row in ranking if row["class_id"] == label and row["rank"] < 4} for label in range(10)
    }
    points = {row["image_id"]: row for row in catalog.read("adversarials", plan.sources[0].key).to_pylist()}
    (unit,) = plan.measurements
    rows = catalog.read("measurements", unit.key).to_pylist()
    assert len({row["broken"] for row in rows}) == 2, "some attacks succeed, some do not"
    for place, image_id in enumerate(digits.ids):
        own = {row["quantity"]: row for row in rows if row["image_id"] == image_id}
        if not own:
            continue
        point = torch.tensor(points[image_id]["pixels"]).reshape(1, *points[image_id]["shape"])
        with torch.no_grad():
            prediction = int(model(point).argmax())
            model(digits.images[place : place + 1])
        after, before = inputs[-2][0], inputs[-1][0]
        label = int(digits.labels[place])
        sets = {
            "true class": best[label],
            "class after the attack": best[prediction],
            "remaining classes": set().union(*(best[each] for each in best if each not in (label, prediction))),
            "no class": set(range(64)) - set().union(*best.values()),
        }
        if prediction == label:
            del sets["class after the attack"]
        assert set(own) == set(sets)
        for name, neurons in sets.items():
            chosen = sorted(neurons)
            mean = np.mean(before[chosen], dtype=np.float64)
            expected = 100 * (np.mean(after[chosen], dtype=np.float64) - mean) / mean if mean else None
            assert own[name]["value"] == pytest.approx(expected, rel=1e-4)
            assert own[name]["broken"] == (prediction != label)
    handle.remove()


def test_the_middle_of_a_loss_surface_is_the_loss_of_the_image(tmp_path: Path) -> None:
    catalog, plan = analyzed(tmp_path, "loss-surface", defenses="none", grid=3)
    rows = [row for unit in plan.measurements for row in catalog.read("measurements", unit.key).to_pylist()]
    model, digits = load_model("demo"), load_images("digits", n=12)
    with torch.no_grad():
        losses = cross_entropy(model(digits.images), digits.labels, reduction="none").tolist()
    middle = {row["image_id"]: row["value"] for row in rows if (row["x"], row["y"]) == (0, 0)}
    assert [middle[image_id] for image_id in digits.ids] == pytest.approx(losses, rel=1e-5)
    points = digits.images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(points), digits.labels, reduction="sum"), [points])
    with torch.no_grad():
        moved = (digits.images + 0.15 * gradient.sign()).clamp(0, 1)
        losses = cross_entropy(model(moved), digits.labels, reduction="none").tolist()
    along = {row["image_id"]: row["value"] for row in rows if (row["x"], row["y"]) == (1, 0)}
    assert [along[image_id] for image_id in digits.ids] == pytest.approx(losses, rel=1e-4)
    assert len(rows) == 9 * 12


@pytest.mark.parametrize("pixels", [2, 7, 64])
def test_the_other_direction_is_orthogonal_and_as_long(pixels: int) -> None:
    signs = torch.randint(-1, 2, (5, 1, 1, pixels), generator=torch.Generator().manual_seed(1)).float()
    found = orthogonal_signs(signs, seed=2)
    assert (signs * found).flatten(1).sum(dim=1).tolist() == [0.0] * 5
    lost = (signs.abs() - found.abs()).flatten(1).sum(dim=1)
    assert set(lost.tolist()) <= {0.0, 1.0}
    assert (found[signs == 0] == 0).all()
    assert torch.equal(found, orthogonal_signs(signs, seed=2))
