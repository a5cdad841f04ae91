"""Attacks on the base model: each one unit, whoever asks for it, and AutoAttack's verdicts what they are alone."""

from functools import partial
from pathlib import Path

import pytest
import torch

from igd_ray.attacks import APGD, FAB, AutoAttack, Square, TargetedAPGD, auto_attack
from igd_ray.attacks.registry import REGISTERED, Registration
from igd_ray.attacks.transfer import TransferEOT
from igd_ray.execution.executor import LocalExecutor
from igd_ray.models.demo import WEIGHTS_FILE
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.judged import read_points
from tests.toys.counted_runs import Prepared, prepare
from tests.toys.runs import rows, run_evaluation

NOISY = """
import torch
from igd_ray.models.demo import DemoResNet

class Noisy(DemoResNet):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, images):
        return super().forward(images + 0.05 * torch.randn(images.shape, generator=self.generator))
"""

SAME = "aa,tr-aa,rays-20,tr-rays-20,apgd-eot,tr-apgd-eot"


@pytest.fixture
def short_auto_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    """AutoAttack with its published first stage and short others."""
    stages = (
        ("apgd-ce", APGD("ce")),
        ("apgd-t", TargetedAPGD(classes=3, steps=10)),
        ("fab-t", FAB(classes=2, steps=5)),
        ("square", Square(50)),
    )
    monkeypatch.setattr(auto_attack, "VERSIONS", {**auto_attack.VERSIONS, "standard": stages})


def planned(catalog: Path, **changes: object) -> Prepared:
    return prepare(catalog, **{"defenses": "none,random-8", "attacks": SAME, "n": 8, "shard_size": 8, **changes})


def random_base(folder: Path) -> dict[str, object]:
    (folder / "net.py").write_text(NOISY)
    return {"model": f"{folder / 'net.py'}:Noisy", "weights": str(WEIGHTS_FILE), "defenses": "none"}


@pytest.mark.parametrize(
    ("direct", "transfer"), [("aa", "tr-aa"), ("rays-20", "tr-rays-20"), ("apgd-eot", "tr-apgd-eot")]
)
@pytest.mark.parametrize("mode", ["full", "cascade"])
def test_an_attack_on_the_base_model_and_its_transfer_are_one_unit(
    tmp_path: Path, direct: str, transfer: str, mode: str
) -> None:
    prepared = planned(tmp_path / "results", mode=mode)
    undefended, defended = prepared.cells("none"), prepared.cells("random-8")
    assert undefended[direct].key == undefended[transfer].key
    assert isinstance(undefended[direct], AttackUnit)
    carried = defended[transfer]
    assert isinstance(carried, TransferUnit)
    assert carried.source.key == undefended[direct].key
    assert defended[direct].key not in (undefended[direct].key, carried.key)


def test_the_plan_does_no_work_twice(tmp_path: Path) -> None:
    units = planned(tmp_path / "results").units
    on_base = [unit for unit in units if isinstance(unit, AttackUnit) and unit.defense.kind == "none"]
    # AutoAttack, RayS, APGD with EoT, and the transfer APGD-CE that AutoAttack's first stage is.
    assert len(on_base) == 4
    assert len({unit.key for unit in units}) == len(units) == 4 + 3 + 3


@pytest.mark.parametrize("label", ["apgd-eot", "tr-apgd-eot"])
def test_equal_gradients_of_a_deterministic_base_are_computed_once(tmp_path: Path, label: str) -> None:
    attack = planned(tmp_path / "results").cells("none")[label].attack.algorithm
    assert isinstance(attack, TransferEOT)
    assert (attack.eot, attack.gradients) == (20, 1)


@pytest.mark.parametrize("asked", ["aa", "tr-aa", "aa,tr-apgd-ce", "tr-apgd-ce,tr-aa"])
def test_autoattack_needs_the_transfer_whose_trajectories_are_its_first_stage(tmp_path: Path, asked: str) -> None:
    prepared = planned(tmp_path / "results", attacks=asked, attack_seed=None)
    (autoattack,) = {
        unit.key: unit
        for unit in prepared.units
        if isinstance(unit, AttackUnit) and unit.defense.kind == "none" and unit.attack.label != "tr-apgd-ce"
    }.values()
    (first,) = (unit for unit in prepared.units if isinstance(unit, AttackUnit) and unit.attack.label == "tr-apgd-ce")
    assert autoattack.needs == {first.key}
    assert autoattack.attack_seed_used == first.attack_seed_used
    if "tr-apgd-ce" not in asked:
        assert prepared.plan.sources == (first,), "a source without a cell of its own"


def test_the_first_stage_is_planned_alike_whether_autoattack_is_or_not(tmp_path: Path) -> None:
    alone = planned(tmp_path / "results", attacks="tr-apgd-ce").cells("none")["tr-apgd-ce"]
    beside = planned(tmp_path / "results", attacks="aa,tr-apgd-ce").cells("none")["tr-apgd-ce"]
    assert alone.key == beside.key


@pytest.mark.parametrize("attack_seed", [None, 5])
def test_sharing_the_first_stage_leaves_autoattack_as_it_is_alone(
    short_auto_attack: None, tmp_path: Path, attack_seed: int | None
) -> None:
    prepared = planned(
        tmp_path / "results", attacks="aa", defenses="none", n=16, shard_size=16, attack_seed=attack_seed
    )
    counted = prepared.run()
    unit = prepared.cells("none")["aa"]
    images, labels = prepared.context.images("test", 0, 16)
    outcomes = prepared.outcomes(unit)
    (seed,) = {int(str(row["seed"])) for row in outcomes}
    assert attack_seed is None or seed == attack_seed
    alone = AutoAttack("standard")(
        prepared.context.model,
        images,
        labels,
        threat=unit.threat,
        generator=torch.Generator().manual_seed(seed),
    )
    points, exists = read_points(prepared.context, unit.key, unit.shard, images)["returned"]
    assert torch.equal(exists, alone.found)
    assert torch.equal(points[exists], alone.adversarial[alone.found])
    assert [row["status"] == "broken" for row in outcomes] == alone.broken.tolist()
    assert tuple(row["stage"] for row in outcomes) == alone.stages
    assert {"apgd-ce", None} <= set(alone.stages), "otherwise there is nothing to share, or all of it is"
    # What the first stage would have cost is not paid again.
    first = next(unit for unit in prepared.units if unit.attack.label == "tr-apgd-ce")
    assert counted[first.key][1] == 16 * 101
    assert int(alone.backwards.sum()) - counted[unit.key][1] == 16 * 101


def test_a_random_base_shares_nothing_and_averages_gradients(tmp_path: Path) -> None:
    prepared = planned(tmp_path / "results", **random_base(tmp_path), attacks=f"{SAME},tr-apgd-ce", judge_draws=3)
    cells = prepared.cells("none")
    assert cells["apgd-eot"].key != cells["tr-apgd-eot"].key
    assert all(isinstance(unit, AttackUnit) and unit.first_stage is None for unit in cells.values())
    assert all(unit.needs == frozenset() for unit in cells.values())
    assert {unit.judge_draws for unit in cells.values()} == {3}
    carried = cells["tr-apgd-eot"].attack.algorithm
    assert isinstance(carried, TransferEOT)
    assert (carried.eot, carried.gradients) == (20, 20)
    assert isinstance(cells["apgd-eot"].attack.algorithm, AutoAttack)
    assert cells["apgd-eot"].attack.algorithm.collapsed_eot == 1
    assert cells["aa"].attack_seed_used != cells["tr-apgd-ce"].attack_seed_used


def test_the_gradients_of_a_random_base_are_counted_twentyfold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    averaged = Registration("tr-apgd-eot", partial(TransferEOT, steps=5, collapse=False))
    monkeypatch.setitem(REGISTERED, averaged.label, averaged)
    prepared = planned(tmp_path / "results", **random_base(tmp_path), attacks="tr-apgd-eot", n=3)
    (unit,) = prepared.units
    counted = prepared.run()
    # A start and five steps for each of two losses.
    assert counted[unit.key][1] == 3 * 2 * 6 * 20
    assert prepared.recorded(unit) == counted[unit.key]


@pytest.mark.parametrize("mode", ["full", "cascade"])
def test_another_defense_later_computes_no_base_attack_again(tmp_path: Path, mode: str) -> None:
    attacks = {"attacks": "rays-20,tr-rays-20,tr-apgd-ce-5,tr-apgd-t-dlr-5,audit-transfer-start-2", "mode": mode}
    planned(tmp_path / "results", **attacks, defenses="none,random-8").run()
    later = planned(tmp_path / "results", **attacks, defenses="none,random-6")
    counted = later.run()
    computed = [unit for unit in later.units if unit.key in counted]
    assert {unit.defense.label for unit in computed} == {"random-6"}
    assert len(computed) == 5
    on_base = [unit for unit in later.units if isinstance(unit, AttackUnit) and unit.defense.kind == "none"]
    assert len(on_base) == 5, "RayS, two transfers, the audit on the base and the transfer that it starts from"
    assert sum(sum(counted.get(unit.key, (0, 0))) for unit in on_base) == 0
    # Nothing but the units of the new defense has passed through the model.
    assert sum(passes for passes, _ in counted.values()) == sum(later.recorded(unit)[0] for unit in computed)


def test_a_later_evaluation_reuses_base_attacks_of_an_earlier_one(tmp_path: Path) -> None:
    ran: list[AttackUnit | TransferUnit] = []

    class Noting(LocalExecutor):
        def run(self, units):
            ran.extend(unit for unit in units if isinstance(unit, AttackUnit | TransferUnit))
            return super().run(units)

    changes = {"attacks": "apgd-ce-5,tr-apgd-ce-5", "n": 8, "shard_size": 8}
    run_evaluation(tmp_path / "results", **changes, defenses="none,random-8")
    first = [row for row in rows(tmp_path / "results") if row["defense"] == "none"]
    run_evaluation(tmp_path / "results", **changes, defenses="random-6", executor=Noting)
    assert [(unit.kind, unit.defense.label) for unit in ran] == [("transfer", "random-6"), ("attack", "random-6")]
    assert [row for row in rows(tmp_path / "results") if row["defense"] == "none"] == first
