"""The choice of an engine is part of a unit's key where it is not the default, and seeds then leave out the shard."""

from pathlib import Path

import pytest

from igd_ray.attacks.registry import parse_attack
from igd_ray.planning.attack_units import engine_notes, on_engine
from igd_ray.planning.evaluation import EvaluationPlan, plan_evaluation
from igd_ray.units.attack import AttackUnit
from tests.toys.runs import rows, run_evaluation, settings_for
from tests.toys.sessions import session_for


def plan(folder: Path, **changes: object) -> EvaluationPlan:
    with session_for(settings_for(folder / "results", **{"n": 8, "shard_size": 8} | changes)) as session:
        return plan_evaluation(session.workspace)


def units(plan: EvaluationPlan) -> dict[tuple[str, str], list[AttackUnit]]:
    """The attacks, by attack and defense, shard by shard."""
    found: dict[tuple[str, str], list[AttackUnit]] = {}
    for cell in plan.cells:
        if isinstance(cell.unit, AttackUnit):
            found.setdefault((cell.attack, cell.defense), []).append(cell.unit)
    return found


def test_only_attacks_that_the_engine_has_get_keys_of_their_own(tmp_path: Path) -> None:
    changes = {"defenses": "none,loir-8", "attacks": "apgd-ce-5,apgd-t-5,pgd-5,fab-t-5,tr-apgd-ce-5"}
    default, pooled = (units(plan(tmp_path, engine=engine, **changes)) for engine in ("pyautoattack", "pooled"))
    same = {attack for attack, defense in default if default[attack, defense][0].key == pooled[attack, defense][0].key}
    assert same == {"pgd-5", "fab-t-5", "tr-apgd-ce-5"}
    assert units(plan(tmp_path, **changes)).keys() == default.keys()
    assert all(units(plan(tmp_path, **changes))[name][0].key == unit[0].key for name, unit in default.items())


@pytest.mark.parametrize(("engine", "seeds"), [("pyautoattack", 3), ("pooled", 1)])
def test_an_image_has_one_seed_in_whatever_shard_only_in_the_pool(tmp_path: Path, engine: str, seeds: int) -> None:
    changes = {"attacks": "apgd-ce-5", "engine": engine}
    found = [
        unit.attack_seed_used
        for shard_size in (8, 4)
        for unit in units(plan(tmp_path, shard_size=shard_size, **changes))["apgd-ce-5", "none"]
    ]
    assert len(found) == 3
    assert len(set(found)) == seeds


def test_autoattack_does_not_take_its_first_stage_from_pyautoattacks_transfer(tmp_path: Path) -> None:
    (unit,) = units(plan(tmp_path, attacks="aa", engine="pooled"))["aa", "none"]
    assert unit.first_stage is None


def test_a_run_says_which_engine_searched_at_which_stage() -> None:
    attacks = [on_engine(parse_attack(label), "pooled") for label in ("clean", "aa", "rays", "tr-apgd-ce")]
    assert engine_notes(attacks, "pooled") == [
        "engine of aa: pyautoattack for fab-t; pooled for apgd-ce, apgd-t, square",
        "engine of tr-apgd-ce: pyautoattack for apgd-ce",
    ]
    by_default = [on_engine(parse_attack(label), "pyautoattack") for label in ("clean", "aa", "aa-fast")]
    assert engine_notes(by_default, "pyautoattack") == ["engine of aa-fast: pooled for apgd-ce, apgd-t, square"]


def test_verdicts_in_float32_are_those_of_other_shards(tmp_path: Path) -> None:
    """On the demo model: 24 images, none of whose verdicts hangs on the rounding of batches of 1, 8 and 24."""
    verdicts = {}
    for shard_size in (24, 8, 1):
        changes = {"attacks": "apgd-ce-20,apgd-t-5", "defenses": "none", "engine": "pooled", "shard_size": shard_size}
        assert not run_evaluation(tmp_path / f"{shard_size}", **changes).failed
        verdicts[shard_size] = [
            (row["attack"], row["image_id"], row["status"]) for row in rows(tmp_path / f"{shard_size}")
        ]
    assert len(verdicts[24]) == 48
    assert {status for _, _, status in verdicts[24]} >= {"broken", "robust"}
    assert verdicts[24] == verdicts[8] == verdicts[1]
