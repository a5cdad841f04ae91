"""The checks that need the defended model: each finding exists whatever the model is, and says what was measured."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from igd_ray.checks import INFO, WARNING
from igd_ray.data import load_images
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.models import load_model
from igd_ray.planning.defenses import needed_defenses
from igd_ray.threat import Norm, ThreatModel
from igd_ray.units.base import Shard, execute
from igd_ray.units.checks.defense import DefenseCheckUnit, GradientCheckUnit
from igd_ray.units.replica import Context, ImageArrays, WorkerSetup
from tests.toys.contexts import GivenModel, shard
from tests.toys.counting import PassCounter
from tests.toys.models import Threshold
from tests.toys.runs import settings_for
from tests.toys.sessions import session_for

NONE = DefenseSpec("none", "m")
SMOOTHING = DefenseSpec("smoothing-only", "m", "smoothing-only", sigma=0.1, draws=1)
THREAT = ThreatModel(Norm.LINF, 0.01)

Findings = dict[str, dict[str, object]]


def findings(unit: GradientCheckUnit | DefenseCheckUnit, context: Context) -> Findings:
    """The rows of a unit, by check."""
    rows = unit.compute(context)["checks"]
    found = {str(row["check"]): dict(row) for row in rows}
    assert len(found) == len(rows)
    assert all(row["unit_key"] == unit.key and row["defense"] == unit.defense.label for row in rows)
    return found


def grey(folder: Path, model: nn.Module, value: float, label: int = 1, number: int = 8) -> GivenModel:
    """Images of 2 × 2 pixels, all alike."""
    images = torch.full((number, 1, 2, 2), value)
    return GivenModel(model, images, torch.full((number,), label), folder / "results")


def digits(folder: Path, model: nn.Module, n: int = 16) -> GivenModel:
    data = load_images("digits", n=n)
    return GivenModel(model, data.images, data.labels, folder / "results")


def test_every_inspection_has_all_of_its_findings(tmp_path: Path) -> None:
    context = digits(tmp_path, load_model("demo"))
    unit = DefenseCheckUnit(NONE, shard(context), "standard", 0)
    assert set(findings(unit, context)) == {"randomised", "zero-gradient", "batch-dependence", "output-range"}


class TestGradientCheck:
    def test_it_is_silent_on_an_honest_model(self, tmp_path: Path) -> None:
        context = digits(tmp_path, load_model("demo"))
        found = findings(GradientCheckUnit(NONE, shard(context), ThreatModel(Norm.LINF, 0.1), 0), context)
        assert {name: row["severity"] for name, row in found.items()} == {"more-steps": INFO, "large-epsilon": INFO}
        assert found["large-epsilon"]["value"] == 0

    def test_gradients_that_lead_nowhere_leave_images_correct_at_large_epsilon(self, tmp_path: Path) -> None:
        class Quantised(nn.Module):
            """Rounds pixels to four levels, which leaves no gradient."""

            def __init__(self) -> None:
                super().__init__()
                self.model = load_model("demo")

            def forward(self, images: Tensor) -> Tensor:
                return self.model((images * 3).round() / 3)

        context = digits(tmp_path, Quantised())
        found = findings(GradientCheckUnit(NONE, shard(context), THREAT, 0), context)
        assert found["large-epsilon"]["severity"] == WARNING
        assert found["large-epsilon"]["value"] > 0.5

    def test_a_model_that_more_steps_wear_in_is_found(self, tmp_path: Path) -> None:
        class WearsIn(Threshold):
            """Calls everything but the clean image class 0, until it was asked 60 times."""

            def __init__(self) -> None:
                super().__init__(0.5)
                self.calls = 0

            def forward(self, images: Tensor) -> Tensor:
                self.calls += 1
                moved = (images[:, 0, 0, 0] - 0.75).abs()
                wrong = moved - 1e-6 if self.calls < 60 else -moved - 1
                return torch.stack([wrong, -wrong], dim=1)

        # All eight are broken by 20 steps alone: p = 2·0.5⁸.
        context = grey(tmp_path, WearsIn(), 0.75)
        found = findings(GradientCheckUnit(NONE, shard(context), THREAT, 0), context)
        assert (found["more-steps"]["severity"], found["more-steps"]["value"]) == (WARNING, 8)
        assert "20 steps alone broke 8 images, 200 steps alone 0 (p = 0.0078)" in found["more-steps"]["message"]

    def test_only_images_that_are_right_count(self, tmp_path: Path) -> None:
        images = torch.tensor([0.2] * 3 + [0.6] * 5)[:, None, None, None].repeat(1, 1, 2, 2)
        context = GivenModel(Threshold(0.5), images, torch.ones(8, dtype=torch.int64), tmp_path / "results")
        found = findings(GradientCheckUnit(NONE, shard(context), THREAT, 0), context)
        # 16 times 0.01 crosses the 0.1 to the threshold.
        assert found["large-epsilon"]["message"] == "0 of 5 images stay correct at 16 times eps"

    def test_without_a_right_image_both_findings_say_that_nothing_was_measured(self, tmp_path: Path) -> None:
        context = grey(tmp_path, Threshold(0.5), 0.2)
        unit = GradientCheckUnit(NONE, shard(context), THREAT, 0)
        found = findings(unit, context)
        assert set(found) == {"more-steps", "large-epsilon"}
        for row in found.values():
            assert (row["severity"], row["value"]) == (INFO, None)
            assert row["message"] == "none of 8 images is right without an attack: nothing to measure"
        assert execute(unit, context).error is None

    @pytest.mark.parametrize("threat", [ThreatModel(Norm.LINF, 0.5), ThreatModel(Norm.L2, 0.3)])
    def test_large_balls_and_other_norms(self, tmp_path: Path, threat: ThreatModel) -> None:
        context = grey(tmp_path, Threshold(0.5), 0.6)
        found = findings(GradientCheckUnit(NONE, shard(context), threat, 0), context)
        assert found["large-epsilon"]["value"] == 0

    def test_findings_on_a_random_defense_can_be_repeated(self, tmp_path: Path) -> None:
        context = grey(tmp_path, Threshold(0.5), 0.6, number=40)
        unit = GradientCheckUnit(SMOOTHING, shard(context), THREAT, 0)
        first = findings(unit, context)
        torch.manual_seed(3)
        assert findings(unit, context) == first

    def test_the_key_depends_on_bounds_and_seed(self, tmp_path: Path) -> None:
        context = grey(tmp_path, Threshold(0.5), 0.6)
        unit = GradientCheckUnit(NONE, shard(context), THREAT, 0)
        others = [
            replace(unit, threat=ThreatModel(Norm.LINF, 0.02)),
            replace(unit, threat=ThreatModel(Norm.L2, 0.01)),
            replace(unit, seed=1),
            replace(unit, defense=SMOOTHING),
            replace(unit, shard=shard(context, 0, 4)),
        ]
        assert len({each.key for each in (unit, *others)}) == 6


@pytest.mark.parametrize("label", ["none", "loir-8", "hedge", "smoothing-only"])
def test_gradient_checks_on_the_embedded_model_stay_within_their_bound(tmp_path: Path, label: str) -> None:
    arguments = {"hedge.steps": 2} if label == "hedge" else {}
    settings = settings_for(tmp_path / "results", defenses=label, sigma=0.05, draws=2, defense_arg=arguments)
    with session_for(settings) as session:
        workspace = session.workspace
        resolved = needed_defenses(workspace)
        for ranking in resolved.rankings.values():
            session.rank(ranking)
        (defense,) = resolved.defenses
        workspace.catalog.create()
        unit = GradientCheckUnit(defense, Shard.of("test", workspace.test, 0, 3), ThreatModel(Norm.LINF, 0.1), 0)
        context = Context(
            WorkerSetup(workspace.source, str(workspace.catalog.root), {"test": ImageArrays.of(workspace.test)}), "cpu"
        )
        counter = PassCounter(context.model.conv1)
        assert execute(unit, context).error is None
    assert len(workspace.catalog.read("checks", unit.key)) == 2
    forwards, backwards = unit.most_passes(10)
    assert 0 < counter.forwards <= forwards
    assert 0 < counter.backwards <= backwards
