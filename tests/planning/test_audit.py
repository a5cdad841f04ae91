"""The audit's plan: adaptive attacks on survivors only, started from the very points that other units stored."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from igd_ray import report
from igd_ray.attacks.adaptive.warm_start import WarmStartedAttack
from igd_ray.attacks.registry import parse_attack
from igd_ray.planning import attack_units as planning
from igd_ray.protocol import AUDIT_ATTACKS
from igd_ray.units.attack import AttackUnit
from tests.toys.counted_runs import Prepared, prepare

ORDINARY = ("square-3", "tr-apgd-ce-2", "tr-apgd-cw-2")
AUDITS = tuple(f"{name}-2" for name in AUDIT_ATTACKS)
ANY_TARGET = ("audit-transfer-start-2", "audit-square-eot-2", "audit-best-start-2")
TWO_PASSES = (
    "audit-joint-loss-2",
    "audit-oracle-mask-2",
    "audit-detached-mask-2",
    "audit-identity-mask-2",
    "audit-line-2",
)
CHANGES = {
    "defenses": "none,loir-8,hedge",
    "defense_arg": {"hedge.steps": 3},
    "attacks": ",".join((*ORDINARY, *AUDITS)),
    "sigma": 0.05,
    "n": 12,
    "shard_size": 12,
}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    prepared = prepare(tmp_path_factory.mktemp("audited") / "results", **CHANGES)
    prepared.run()
    return prepared


def audits_in_order(prepared: Prepared, defense: str) -> list[AttackUnit]:
    return [
        cell.unit
        for cell in prepared.plan.cells
        if cell.defense == defense and cell.attack.startswith("audit-") and isinstance(cell.unit, AttackUnit)
    ]


def stored(prepared: Prepared, unit_key: str, point: str) -> dict[str, Tensor]:
    """The points that a unit keeps under a name, by image."""
    table = prepared.context.catalog.read("adversarials", unit_key).to_pylist()
    return {
        row["image_id"]: torch.tensor(row["pixels"]).reshape(row["shape"]) for row in table if row["point"] == point
    }


def test_each_adaptive_attack_takes_what_all_before_it_left_robust(audited: Prepared) -> None:
    broken_by_audits = 0
    for defense in ("none", "loir-8", "hedge"):
        cells = audited.cells(defense)
        standing = set(cells[ORDINARY[0]].shard.ids)
        for label in ORDINARY:
            standing &= {row["image_id"] for row in audited.outcomes(cells[label]) if row["status"] == "robust"}
        assert standing, "nothing is left to attack"
        for unit in audits_in_order(audited, defense):
            outcomes = audited.outcomes(unit)
            attacked = {row["image_id"] for row in outcomes if row["status"] in ("robust", "broken")}
            assert attacked == standing, unit.attack.label
            look = unit.defense.passes.query_forwards
            assert all(row["forwards"] == look for row in outcomes if row["image_id"] not in attacked)
            broken = {row["image_id"] for row in outcomes if row["status"] == "broken"}
            broken_by_audits += len(broken)
            standing -= broken
    assert broken_by_audits > 0, "otherwise no adaptive attack has anything to skip"


def test_attacks_on_two_passes_are_left_out_where_there_are_none_with_a_note(audited: Prepared) -> None:
    for defense in ("none", "hedge"):
        assert tuple(unit.attack.label for unit in audits_in_order(audited, defense)) == ANY_TARGET
        (note,) = (note for note in audited.plan.notes if f" on {defense}, which has no two passes" in note)
        assert all(label in note for label in TWO_PASSES)
        assert not any(label in note for label in ANY_TARGET)
    assert tuple(unit.attack.label for unit in audits_in_order(audited, "loir-8")) == AUDITS
    assert not any("no two passes" in note and "loir-8" in note for note in audited.plan.notes)


def test_starts_are_the_stored_points_of_the_units_named(audited: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, tuple[Tensor, Tensor]]] = []
    start = WarmStartedAttack.starting_from

    def note(attack: WarmStartedAttack, points: dict[str, tuple[Tensor, Tensor]]) -> WarmStartedAttack:
        given.append(points)
        return start(attack, points)

    monkeypatch.setattr(WarmStartedAttack, "starting_from", note)
    started = [
        unit for unit in audits_in_order(audited, "loir-8") if isinstance(unit.attack.algorithm, WarmStartedAttack)
    ]
    assert [unit.attack.label for unit in started] == [
        "audit-transfer-start-2",
        "audit-line-2",
        "audit-best-start-2",
    ]
    for unit in started:
        given.clear()
        unit.compute(audited.context)
        (points,) = given
        assert set(points) == {source.name for source in unit.starts}
        # One row for each image that is attacked, in the order of the shard.
        attacked = [row["image_id"] for row in audited.outcomes(unit) if row["status"] in ("robust", "broken")]
        for source in unit.starts:
            kept = stored(audited, source.unit_key, source.point)
            candidates, exists = points[source.name]
            assert len(candidates) == len(attacked)
            assert exists.tolist() == [image_id in kept for image_id in attacked]
            for image_id, candidate, there in zip(attacked, candidates, exists.tolist(), strict=True):
                assert not there or torch.equal(candidate, kept[str(image_id)])
            # A direct attack leaves no point where it fails, nor is there one that misled the base model if none did.
            may_fail = source.name == "square-3" or source.name.endswith("/last-misclassified")
            assert exists.any() or may_fail, f"{unit.attack.label}: {source.name} gave no start"


def test_the_transfer_start_is_that_of_the_published_attack_on_the_base_model(audited: Prepared) -> None:
    (first,) = (unit for unit in audited.units if unit.attack.label == "tr-apgd-ce")
    assert isinstance(first, AttackUnit)
    assert first.defense.kind == "none"
    assert first in audited.plan.sources, "it was not asked for, so that it has no cell"
    for defense in ("none", "loir-8", "hedge"):
        ((name, key, point),) = audits_in_order(audited, defense)[0].starts
        assert (name, key, point) == ("transfer", first.key, "highest-loss")


def test_the_line_runs_from_the_transfer_to_the_point_of_the_joint_loss(audited: Prepared) -> None:
    cells = audited.cells("loir-8")
    transfer, white_box = cells["audit-line-2"].starts
    assert (transfer.name, white_box.name) == ("transfer", "white-box")
    assert white_box.unit_key == cells["audit-joint-loss-2"].key
    assert white_box.point == "returned"


def test_the_best_start_is_chosen_among_the_points_of_all_other_attacks(audited: Prepared) -> None:
    for defense in ("loir-8", "hedge"):
        cells = audited.cells(defense)
        *others, best = audits_in_order(audited, defense)
        assert best.attack.label == "audit-best-start-2"
        transfers = {
            "transfer": next(unit.key for unit in audited.units if unit.attack.label == "tr-apgd-ce"),
            "tr-apgd-ce-2": cells["tr-apgd-ce-2"].source.key,
            "tr-apgd-cw-2": cells["tr-apgd-cw-2"].source.key,
        }
        # Both points of each: a defense may be broken by one that misled the base model at a lower loss.
        expected = {}
        for name, key in transfers.items():
            expected |= {name: key, f"{name}/last-misclassified": key}
        expected["square-3"] = cells["square-3"].key
        for unit in others:
            name = "white-box" if unit.attack.label == "audit-joint-loss-2" else unit.attack.label
            expected[name] = unit.key
        assert {start.name: start.unit_key for start in best.starts} == expected
        assert best.attack.algorithm.sources == tuple(expected)


def test_without_the_joint_loss_the_line_has_a_white_box_unit_of_its_own(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "r", **{**CHANGES, "attacks": "tr-apgd-ce-5,audit-line-2"})
    (line,) = audits_in_order(prepared, "loir-8")
    (hidden,) = (unit for unit in prepared.plan.sources if unit.defense.label == "loir-8")
    assert hidden.attack.label == "audit-joint-loss"
    assert hidden.attack.algorithm.settings == parse_attack("audit-joint-loss").algorithm.settings
    assert {start.name: start.unit_key for start in line.starts}["white-box"] == hidden.key
    # It takes what the ordinary attacks left, like the line itself.
    assert hidden.after == line.after == (prepared.cells("loir-8")["tr-apgd-ce-5"].key,)
    assert hidden.key in line.needs
    assert list(prepared.cells("loir-8")) == ["tr-apgd-ce-5", "audit-line-2"]


def test_of_two_budgets_of_the_joint_loss_the_first_is_the_line_s_end_and_both_are_starts(tmp_path: Path) -> None:
    labels = ("audit-joint-loss-2", "audit-joint-loss-3", "audit-line-2", "audit-best-start-2")
    changes = [{**CHANGES, "attacks": ",".join(("tr-apgd-ce-5", *order))} for order in (labels, reversed(labels))]
    prepared, other = (prepare(tmp_path / str(number), **change) for number, change in enumerate(changes))
    cells = prepared.cells("loir-8")
    ends = {start.name: start.unit_key for start in cells["audit-line-2"].starts}
    assert ends["white-box"] == cells["audit-joint-loss-2"].key
    starts = {start.unit_key for start in cells["audit-best-start-2"].starts}
    assert {cells[label].key for label in labels[:3]} <= starts
    assert {label: unit.key for label, unit in other.cells("loir-8").items()} == {
        label: unit.key for label, unit in cells.items()
    }


def test_a_unit_waits_for_its_starts_and_for_those_before_it(audited: Prepared) -> None:
    for defense in ("none", "loir-8", "hedge"):
        units = audits_in_order(audited, defense)
        ordinary = {audited.cells(defense)[label].key for label in ORDINARY}
        assert set(units[0].after) == ordinary
        for before, unit in pairwise(units):
            assert unit.after == (before.key,)
        for unit in units:
            assert unit.needs == {*unit.after, *(start.unit_key for start in unit.starts)}


def test_audits_asked_for_in_another_order_are_the_same_units(audited: Prepared, tmp_path: Path) -> None:
    attacks = ",".join((*reversed(AUDITS), *ORDINARY))
    other = prepare(tmp_path / "r", **{**CHANGES, "attacks": attacks})
    for defense in ("none", "loir-8", "hedge"):
        mine, theirs = audited.cells(defense), other.cells(defense)
        assert {label: unit.key for label, unit in mine.items()} == {label: unit.key for label, unit in theirs.items()}


def test_outcomes_do_not_depend_on_the_order_of_units(audited: Prepared, tmp_path: Path) -> None:
    backwards = prepare(tmp_path / "r", **{**CHANGES, "defenses": "loir-8", "defense_arg": {}})
    backwards.run(reversed(backwards.units))

    def comparable(prepared: Prepared, unit: AttackUnit) -> list[dict[str, object]]:
        unequal = ("seconds", "host", "attempt")
        return [{k: v for k, v in row.items() if k not in unequal} for row in prepared.outcomes(unit)]

    for unit in backwards.units:
        assert comparable(backwards, unit) == comparable(audited, unit), unit.attack.label


def planned_audit(folder: Path, attacks: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The run id and the audit's keys of an evaluation that is asked for `attacks`."""
    plan = prepare(folder / "results", **{**CHANGES, "defenses": "none,hedge", "attacks": ",".join(attacks)}).plan
    return plan.run_id, {
        f"{cell.defense} {cell.attack}": cell.unit.key for cell in plan.cells if "audit-" in cell.attack
    }


def test_the_audits_keys_follow_the_order_of_the_protocol_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacks = [*ORDINARY, *ANY_TARGET]
    planned = planned_audit(tmp_path, attacks)
    assert planned_audit(tmp_path, attacks[::-1]) == planned
    for module in (report.sentences, report.evaluation):
        monkeypatch.setattr(module, "attack_order", str)
    assert planned_audit(tmp_path, attacks) == planned
    monkeypatch.setattr(planning, "attack_order", str)
    run_id, keys = planned_audit(tmp_path, attacks)
    assert run_id != planned[0]
    assert set(keys.values()).isdisjoint(planned[1].values())
