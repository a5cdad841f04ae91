"""An attack is added by one file, here outside the package: labels, help, costs, rows and report follow from it."""

import argparse
from pathlib import Path

import pytest

from igd_ray.attacks.registry import REGISTERED, known_attacks, parse_attack
from igd_ray.catalog import Catalog
from igd_ray.errors import InputError
from igd_ray.models.sources import code_digest
from igd_ray.planning.cost import costs
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.protocol import ATTACK_GROUPS
from igd_ray.report.html import write_report
from igd_ray.verbs.evaluate import add_arguments
from tests.toys.random_corners import RandomCorners
from tests.toys.runs import rows, run_evaluation, settings_for
from tests.toys.sessions import session_for

DIRECT, ADAPTIVE = "random-corners", "audit-random-corners"
TOYS = {label: REGISTERED.pop(label) for label in (DIRECT, ADAPTIVE)}
CHOICE = {
    "defenses": "none,hedge",
    "defense_arg": {"hedge.steps": 2},
    "attacks": f"{DIRECT}-5,tr-{DIRECT}-5,audit-square-eot-5,{ADAPTIVE}",
    "n": 8,
}


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for label, registration in TOYS.items():
        monkeypatch.setitem(REGISTERED, label, registration)


def test_its_labels_are_known_and_take_a_budget() -> None:
    assert {DIRECT, f"tr-{DIRECT}", ADAPTIVE} <= set(known_attacks())
    assert parse_attack(f"{DIRECT}-7").algorithm == RandomCorners(7)
    assert parse_attack(f"tr-{DIRECT}").transfer
    with pytest.raises(InputError, match="20 is the published budget; write 'random-corners'"):
        parse_attack(f"{DIRECT}-20")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert f"{DIRECT}," in parser.format_help().replace("\n", " ")


def test_it_stands_behind_the_audit_of_the_protocol() -> None:
    audit = ATTACK_GROUPS["audit"]
    assert known_attacks()[-len(audit) - 1 :] == [*audit, ADAPTIVE]


def test_it_is_planned_with_its_costs_and_its_code(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "results", **CHOICE)
    with session_for(settings) as session:
        plan = plan_evaluation(session.workspace)
        found = {cost.what: cost for cost in costs(Catalog(tmp_path / "none"), plan.units, num_classes=10)}
    # The clean image, two looks of the attack, five corners, the base class's look and the verdict.
    assert found[f"{DIRECT}-5 on none"].forwards == 8 * (1 + 2 + 5 + 1 + 1)
    assert f"{ADAPTIVE} on hedge" in found
    unit = next(cell.unit for cell in plan.cells if cell.attack == f"{DIRECT}-5")
    assert unit.attack.algorithm is not None
    code = code_digest(RandomCorners)
    assert unit.attack.algorithm.settings == {"attack": DIRECT, "queries": 5, "code": code}
    assert repr(unit.attack.algorithm) == "RandomCorners(queries=5)"


def test_it_runs_from_its_label_to_rows_and_into_the_report(tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    assert not run_evaluation(catalog, **CHOICE).failed
    found = [row for row in rows(catalog) if DIRECT in str(row["attack"])]
    assert {row["attack"] for row in found} == {f"{DIRECT}-5", f"tr-{DIRECT}-5", ADAPTIVE}
    assert {row["status"] for row in found} <= {"robust", "broken", "misclassified", "skipped"}
    # It comes last, on what all others left robust.
    others = [row for row in rows(catalog) if row["attack"] != ADAPTIVE]
    for row in found:
        if row["attack"] == ADAPTIVE:
            mine = (row["image_id"], row["defense"])
            before = {each["status"] for each in others if (each["image_id"], each["defense"]) == mine}
            assert (row["status"] in ("robust", "broken")) == (before == {"robust"})
    page = write_report(Catalog(catalog), None, tmp_path / "report.html").read_text()
    assert f"{DIRECT}-5" in page
    assert TOYS[ADAPTIVE].idea in page
    assert run_evaluation(catalog, **CHOICE).computed == 0
