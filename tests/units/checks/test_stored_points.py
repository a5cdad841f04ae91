"""What an attack left in the catalog, read back: points outside the ball, and points that are no images of 8 bits."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from igd_ray.attacks.registry import parse_attack
from igd_ray.catalog import SCHEMAS, run_query
from igd_ray.checks import INFO, WARNING
from igd_ray.data import load_images
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.models import load_model
from igd_ray.planning.evaluation import run_unit
from igd_ray.threat import Norm, ThreatModel
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import execute
from igd_ray.units.checks.defense import LOOKS, CheckedShard, StoredPointsCheckUnit
from igd_ray.units.judged import point_rows
from igd_ray.units.replica import Context
from tests.toys.contexts import GivenModel, shard
from tests.toys.models import Threshold
from tests.toys.tampering import rewrite

NONE = DefenseSpec("none", "m")
SMOOTHING = DefenseSpec("smoothing-only", "m", "smoothing-only", sigma=0.1, draws=1)
THREAT = ThreatModel(Norm.LINF, 0.125)
APGD = parse_attack("apgd-ce-5")
GREY = 100 / 255


def findings(unit: StoredPointsCheckUnit, context: Context) -> dict[str, dict[str, object]]:
    """The rows of a unit, by check."""
    rows = unit.compute(context)["checks"]
    assert [row["check"] for row in rows] == ["stored-points", "rounding"]
    assert all((row["unit_key"], row["attack"]) == (unit.key, unit.attack.label) for row in rows)
    return {str(row["check"]): dict(row) for row in rows}


def grey(folder: Path, number: int) -> GivenModel:
    """Images of class 0, for a model that calls a pixel over 100.2/255 class 1."""
    images = torch.full((number, 1, 1, 1), GREY)
    return GivenModel(Threshold(100.2 / 255), images, torch.zeros(number, dtype=torch.int64), folder / "results")


def keep(context: Context, key: str, pixels: Tensor, statuses: list[str], start: int = 0) -> CheckedShard:
    """Commit points of one pixel, NaN where there is none, and their images' statuses, as an attack does."""
    images = shard(context, start, start + len(pixels))
    points = {"returned": (pixels[:, None, None, None], ~pixels.isnan())}
    context.catalog.commit("adversarials", key, point_rows(key, images, points))
    empty = dict.fromkeys(SCHEMAS["outcomes"].names)
    rows = [
        {**empty, "unit_key": key, "defense": "none", "attack": "aa", "image_id": image_id, "status": status}
        for image_id, status in zip(images.ids, statuses, strict=True)
    ]
    context.catalog.commit("outcomes", key, rows)
    return CheckedShard(key, key, images)


def test_an_attack_s_own_points_are_fine(tmp_path: Path) -> None:
    data = load_images("digits", n=12)
    context = GivenModel(load_model("demo"), data.images, data.labels, tmp_path / "results")
    attacks = [AttackUnit(NONE, APGD, THREAT, shard(context, *ends), 0, None, 1) for ends in ((0, 8), (8, 12))]
    assert all(execute(unit, context).error is None for unit in attacks)
    unit = StoredPointsCheckUnit(
        NONE, APGD, THREAT, tuple(CheckedShard(each.key, each.key, each.shard) for each in attacks), 0
    )
    assert unit.needs == {each.key for each in attacks}
    assert (unit.shard.start, unit.shard.stop, unit.shard.ids) == (0, 12, shard(context).ids)
    stored = sum(len(context.catalog.read("adversarials", each.key)) for each in attacks)
    found = findings(unit, context)
    assert (found["stored-points"]["severity"], found["rounding"]["severity"]) == (INFO, INFO)
    assert f"0 of {stored} stored points" in found["stored-points"]["message"]
    broken = sum(
        status == "broken"
        for each in attacks
        for status in context.catalog.read("outcomes", each.key)["status"].to_pylist()
    )
    assert f"of {broken} misclassified points" in found["rounding"]["message"]


@pytest.mark.parametrize("pixel", [math.nan, math.inf, -math.inf])
def test_a_stored_point_that_is_no_image_is_a_finding_and_not_asked_for(tmp_path: Path, pixel: float) -> None:
    context = grey(tmp_path, 3)
    part = keep(context, "a", torch.full((3,), 102 / 255), ["broken"] * 3)
    rewrite(tmp_path / "results", "adversarials", "a", lambda rows: rows[1].update(pixels=[pixel]))
    found = findings(StoredPointsCheckUnit(NONE, APGD, THREAT, (part,), 0), context)
    assert (found["stored-points"]["severity"], found["stored-points"]["value"]) == (WARNING, math.inf)
    assert found["stored-points"]["message"].startswith("1 of 3 stored points lie outside the ball or [0, 1], some")
    assert "loses 0 of 2 misclassified points" in found["rounding"]["message"]


def test_points_outside_the_ball_are_found_over_all_shards(tmp_path: Path) -> None:
    context = grey(tmp_path, 6)
    parts = (
        keep(context, "a", torch.tensor([GREY + 0.125, GREY + 0.15]), ["broken", "robust"]),
        keep(context, "b", torch.tensor([float("nan")] * 2), ["robust", "misclassified"], 2),
        keep(context, "c", torch.tensor([-0.01, GREY]), ["robust", "robust"], 4),
    )
    found = findings(StoredPointsCheckUnit(NONE, APGD, THREAT, parts, 0), context)["stored-points"]
    assert found["severity"] == WARNING
    assert "2 of 4 stored points" in found["message"]
    assert found["value"] == pytest.approx(GREY + 0.01 - 0.125, abs=1e-7)


@pytest.mark.parametrize(("lost", "severity"), [(0, INFO), (1, INFO), (2, WARNING)])
def test_points_that_rounding_loses_are_counted_over_all_shards(tmp_path: Path, lost: int, severity: str) -> None:
    context = grey(tmp_path, 40)
    points = torch.full((40,), 102 / 255)
    points[:lost] = 100.3 / 255
    # The images from 20 on are not broken, whatever their points do now.
    points[20:] = 100.3 / 255
    parts = (
        keep(context, "a", points[:10], ["broken"] * 10),
        keep(context, "b", points[10:], ["broken"] * 10 + ["robust"] * 20, 10),
    )
    found = findings(StoredPointsCheckUnit(NONE, APGD, THREAT, parts, 0), context)["rounding"]
    assert (found["severity"], found["value"]) == (severity, pytest.approx(lost / 20))
    assert f"loses {lost} of 20" in found["message"]


def test_a_transfer_is_reviewed_with_its_source_s_points_and_its_own_verdicts(tmp_path: Path) -> None:
    context = grey(tmp_path, 4)
    source = keep(context, "source", torch.full((4,), 100.3 / 255), ["broken"] * 4)
    carried = keep(context, "carried", torch.full((4,), float("nan")), ["broken", "broken", "broken", "robust"])
    unit = StoredPointsCheckUnit(
        NONE, parse_attack("tr-apgd-ce-5"), THREAT, (CheckedShard("carried", "source", carried.shard),), 0
    )
    assert unit.needs == {"source", "carried"}
    found = findings(unit, context)
    assert "of 4 stored points" in found["stored-points"]["message"]
    assert "loses 3 of 3" in found["rounding"]["message"]
    assert source.shard == carried.shard


def test_without_stored_points_both_findings_say_that_nothing_was_measured(tmp_path: Path) -> None:
    context = grey(tmp_path, 2)
    part = keep(context, "a", torch.full((2,), float("nan")), ["broken", "robust"])
    found = findings(StoredPointsCheckUnit(NONE, APGD, THREAT, (part,), 0), context)
    assert all((row["severity"], row["value"]) == (INFO, None) for row in found.values())
    assert all("nothing to measure" in row["message"] for row in found.values())
    assert context.given.forwards == 0


def test_without_the_reviewed_unit_there_is_an_error_and_no_finding(tmp_path: Path) -> None:
    context = grey(tmp_path, 2)
    report = execute(StoredPointsCheckUnit(NONE, APGD, THREAT, (CheckedShard("a", "a", shard(context)),), 0), context)
    assert report.error is not None
    assert run_query(context.catalog, "FROM checks").num_rows == 0


def test_units_that_were_split_are_reviewed_by_their_parts(tmp_path: Path) -> None:
    context = grey(tmp_path, 4)
    parts = [
        keep(context, "first", torch.full((2,), 100.3 / 255), ["broken"] * 2),
        keep(context, "second", torch.full((2,), GREY + 0.2), ["broken"] * 2, 2),
    ]
    rows = [{"unit_key": "whole", "part_key": part.points, "images": 2} for part in parts]
    context.catalog.commit("splits", "whole", rows)
    unit = StoredPointsCheckUnit(NONE, APGD, THREAT, (CheckedShard("whole", "whole", shard(context)),), 0)
    found = findings(unit, context)
    assert "2 of 4 stored points" in found["stored-points"]["message"]
    assert "loses 2 of 4" in found["rounding"]["message"]


def test_findings_are_those_of_the_run_that_uses_the_unit(tmp_path: Path) -> None:
    context = grey(tmp_path, 2)
    part = keep(context, "a", torch.full((2,), 102 / 255), ["broken"] * 2)
    unit = StoredPointsCheckUnit(NONE, APGD, THREAT, (part,), 0)
    context.catalog.commit("run_units", "run", [run_unit("run", unit, "none", None)])
    assert execute(unit, context).error is None
    rows = run_query(context.catalog, 'SELECT run_id, defense, attack, "check" FROM checks ORDER BY ALL').to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("run", "none", "apgd-ce-5", "rounding"),
        ("run", "none", "apgd-ce-5", "stored-points"),
    ]
    (state,) = run_query(context.catalog, "SELECT state FROM unit_states").to_pylist()
    assert state == {"state": "done"}


def test_a_random_defense_is_asked_with_noise_of_its_own_and_the_same_each_time(tmp_path: Path) -> None:
    context = grey(tmp_path, 200)
    part = keep(context, "a", torch.full((200,), GREY + 0.1), ["broken"] * 200)
    unit = StoredPointsCheckUnit(SMOOTHING, APGD, THREAT, (part,), 0)
    first = findings(unit, context)
    torch.manual_seed(1)
    assert findings(unit, context) == first
    # Noise of σ = 0.1 makes about one in six of these points right, rounded or not.
    assert first["rounding"]["severity"] == INFO
    assert "asking again without it 0" not in first["rounding"]["message"]
    other = StoredPointsCheckUnit(SMOOTHING, APGD, THREAT, (part,), 1)
    assert other.key != unit.key


@pytest.mark.parametrize("defense", [NONE, SMOOTHING])
def test_the_bound_of_passes_holds_for_two_points_an_image(tmp_path: Path, defense: DefenseSpec) -> None:
    data = load_images("digits", n=6)
    context = GivenModel(load_model("demo"), data.images, data.labels, tmp_path / "results")
    attack = parse_attack("tr-apgd-ce-5")
    source = AttackUnit(NONE, attack, THREAT, shard(context), 0, None, 1)
    carried = TransferUnit(defense, attack, source, 1)
    for each in (source, carried):
        assert execute(each, context).error is None
    unit = StoredPointsCheckUnit(defense, attack, THREAT, (CheckedShard(carried.key, source.key, carried.shard),), 0)
    asked = 0

    def count(_module: object, inputs: tuple[Tensor]) -> None:
        nonlocal asked
        asked += len(inputs[0])

    context.given.register_forward_pre_hook(count)
    findings(unit, context)
    assert 0 < asked <= unit.most_passes(10)[0] == 6 * 2 * LOOKS
    assert unit.most_passes(10)[1] == 0
