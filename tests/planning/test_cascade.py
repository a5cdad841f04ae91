"""The cascade: the cheapest attack first, every other one on what it left robust; and what that costs, counted."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from igd_ray.attacks import APGD, FAB, AutoAttack, Square, TargetedAPGD, auto_attack
from igd_ray.attacks.registry import REGISTERED, Registration
from igd_ray.attacks.transfer import TransferEOT
from igd_ray.catalog import Catalog, run_query
from igd_ray.execution.executor import LocalExecutor
from igd_ray.planning.cost import bound
from igd_ray.protocol import AUDIT_ATTACKS, NINE_ATTACKS
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import Rows
from igd_ray.units.replica import Context
from tests.toys.counted_runs import Prepared, model_that_is_always_wrong, prepare
from tests.toys.runs import rows, run_evaluation

AUDITS = ",".join(f"{name}-2" for name in AUDIT_ATTACKS)
SHORT = f"clean,rays-20,apgd-ce-5,tr-apgd-ce-5,tr-apgd-cw-5,tr-apgd-t-dlr-5,tr-rays-20,{AUDITS}"
SMALL = {
    "defenses": "none,loir-8,hedge",
    "defense_arg": {"hedge.steps": 2},
    "attacks": SHORT,
    "n": 6,
    "shard_size": 6,
}

# On a deterministic defense, what these do to an image depends on neither batch nor seed.
DETERMINISTIC = {
    "defenses": "none,random-8,hedge",
    "defense_arg": {"hedge.steps": 3},
    "attacks": "rays-300,fgsm,tr-rays-300,tr-fgsm",
    "sigma": 0,
    "n": 24,
    "shard_size": 24,
}


def assert_counted_recorded_and_bounded(prepared: Prepared, counted: Mapping[str, tuple[int, int]]) -> None:
    assert {unit.key for unit in prepared.units} == set(counted)
    for unit in prepared.units:
        name = f"{unit.attack.label} on {unit.defense.label}"
        assert prepared.recorded(unit) == counted[unit.key], name
        most = bound(unit, num_classes=10)
        assert counted[unit.key][0] <= most[0], name
        assert counted[unit.key][1] <= most[1], name
        assert counted[unit.key][0] >= len(unit.shard.ids), "every unit looks at the clean images"


def statuses(prepared: Prepared, *, defenses: tuple[str, ...]) -> set[object]:
    units = {cell.unit.key: cell.unit for cell in prepared.plan.cells if cell.defense in defenses}
    return {row["status"] for unit in units.values() for row in prepared.outcomes(unit)}


@pytest.mark.parametrize("mode", ["full", "cascade"])
def test_hooks_count_what_the_outcomes_record_and_no_more_than_the_bound(tmp_path: Path, mode: str) -> None:
    prepared = prepare(tmp_path / "results", **SMALL, mode=mode)
    assert_counted_recorded_and_bounded(prepared, prepared.run())
    assert {"robust", "broken"} <= statuses(prepared, defenses=("none", "loir-8", "hedge"))


@pytest.mark.parametrize("mode", ["full", "cascade"])
def test_images_that_are_wrong_without_an_attack_are_counted_too(tmp_path: Path, mode: str) -> None:
    prepared = prepare(tmp_path / "results", **SMALL, **model_that_is_always_wrong(tmp_path), mode=mode)
    assert_counted_recorded_and_bounded(prepared, prepared.run())
    assert statuses(prepared, defenses=("none", "loir-8", "hedge")) == {"misclassified"}


def test_images_that_the_first_attack_broke_are_counted_too(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "results", **SMALL, mode="cascade", eps=0.6, sigma=0.05)
    counted = prepared.run()
    assert_counted_recorded_and_bounded(prepared, counted)
    # Nothing is left for the later attacks: a look at the clean images is all they do.
    cells = prepared.cells("loir-8")
    for attack in ("rays-20", "apgd-ce-5", *(label for label in cells if label.startswith("audit-"))):
        unit = cells[attack]
        assert {row["status"] for row in prepared.outcomes(unit)} == {"skipped"}
        passes = unit.defense.passes
        assert counted[unit.key] == (6 * passes.query_forwards, 6 * passes.query_backwards)
        assert prepared.context.catalog.read("adversarials", unit.key).num_rows == 0


def test_images_that_noise_has_spared_are_counted_when_they_are_attacked_again(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "results", defenses="loir-8", attacks="apgd-ce-3", n=60, shard_size=1, sigma=0.5)
    counted = prepared.run()
    assert_counted_recorded_and_bounded(prepared, counted)
    more = [unit for unit in prepared.units if counted[unit.key][0] > unit.most_passes(10).forwards]
    assert more, "otherwise nothing was looked at again"


@pytest.mark.slow
def test_published_budgets_are_counted_and_bounded(tmp_path: Path) -> None:
    attacks = "aa,apgd-eot,tr-apgd-ce,tr-aa,tr-apgd-eot"
    prepared = prepare(tmp_path / "results", defenses="none,loir-8", attacks=attacks, n=3, shard_size=3, sigma=0.05)
    assert_counted_recorded_and_bounded(prepared, prepared.run())
    assert "robust" in statuses(prepared, defenses=("none",)), "the later stages of AutoAttack had nothing to do"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("full") / "results"
    assert not run_evaluation(catalog, **DETERMINISTIC).failed
    return catalog


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    catalog = tmp_path_factory.mktemp("cascade") / "results"
    assert not run_evaluation(catalog, **DETERMINISTIC, mode="cascade").failed
    return catalog


def robust_images(catalog: Path) -> dict[tuple[str, str], bool]:
    table = run_query(Catalog(catalog), "SELECT defense, image_id, robust FROM worst_case_images").to_pylist()
    return {(row["defense"], row["image_id"]): row["robust"] for row in table}


def test_the_worst_case_of_each_image_is_that_of_a_full_run(full: Path, cascade: Path) -> None:
    assert robust_images(cascade) == robust_images(full)
    assert len(robust_images(full)) == 3 * 24
    for defense in ("none", "random-8", "hedge"):
        found = {robust for (name, _), robust in robust_images(full).items() if name == defense}
        assert found == {True, False}, f"{defense}: nothing to compare"


def test_an_image_is_broken_by_the_first_attack_that_breaks_it_in_a_full_run(full: Path, cascade: Path) -> None:
    alone = {(row["defense"], row["image_id"], row["attack"]): row["status"] for row in rows(full)}
    chained = {(row["defense"], row["image_id"], row["attack"]): row["status"] for row in rows(cascade)}
    # Transfers of one point cost the same: those go by name.
    order = ("tr-fgsm", "tr-rays-300", "fgsm", "rays-300")
    broken_by = set()
    for defense in ("random-8", "hedge"):
        for image in {image for _, image, _ in alone}:
            expected, broken = [], False
            for attack in order:
                status = alone[defense, image, attack]
                expected.append("skipped" if broken and status != "misclassified" else status)
                broken |= status == "broken"
                if status == "broken" and expected[-1] == "broken":
                    broken_by.add(attack)
            assert [chained[defense, image, attack] for attack in order] == expected
    assert len(broken_by) >= 3, "later attacks break nothing: the comparison shows little"


def test_the_undefended_row_is_attacked_in_full(full: Path, cascade: Path) -> None:
    def undefended(catalog: Path) -> list[dict[str, object]]:
        return [row for row in rows(catalog) if row["defense"] == "none"]

    assert undefended(cascade) == undefended(full)
    assert all(row["status"] != "skipped" for row in undefended(cascade))


def test_skipped_images_have_no_adversarial_outcome_and_cost_one_look(cascade: Path) -> None:
    skipped = [row for row in rows(cascade) if row["status"] == "skipped"]
    assert {row["defense"] for row in skipped} == {"random-8", "hedge"}
    # Three inner steps and the answer itself; masks at the classifier's input need no second pass without noise.
    look = {"random-8": (1, 0), "hedge": (4, 3)}
    for row in skipped:
        for column in ("adversarial_prediction", "distance", "broken_any", "broken_majority", "broken_all", "stage"):
            assert row[column] is None
        assert row["clean_prediction"] == row["label"]
        assert (row["forwards"], row["backwards"]) == look[str(row["defense"])]
        assert row["queries"] == 1


def test_misclassified_images_are_attacked_by_no_later_attack(tmp_path: Path) -> None:
    given = model_that_is_always_wrong(tmp_path)
    run_evaluation(
        tmp_path / "r", **{**DETERMINISTIC, **given, "defenses": "random-8", "defense_arg": {}, "n": 8}, mode="cascade"
    )
    found = rows(tmp_path / "r")
    assert {row["status"] for row in found} == {"misclassified"}
    assert {row["forwards"] for row in found if row["attack"] != "tr-fgsm"} == {1}


def test_a_chain_starts_with_the_cheapest_attack(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "results", **{**SMALL, "n": 5}, mode="cascade")
    for defense in ("loir-8", "hedge"):
        cells = prepared.cells(defense)
        assert cells.pop("clean").after == ()
        ordinary = [unit for label, unit in cells.items() if not label.startswith("audit-")]
        chain = [unit for unit in ordinary if not unit.after]
        assert len(chain) == 1
        following = {unit.after[0]: unit for unit in ordinary if unit.after}
        assert all(len(unit.after) == 1 for unit in following.values())
        while chain[-1].key in following:
            chain.append(following[chain[-1].key])
        assert len(chain) == len(ordinary) == 6
        costs = [sum(unit.most_passes(10)) for unit in chain]
        assert costs == sorted(costs)
        assert [isinstance(unit, TransferUnit) for unit in chain] == [True] * 4 + [False] * 2
    assert all(
        cell.unit.after == () for cell in prepared.plan.cells if cell.defense == "none" and "audit" not in cell.attack
    )


def test_a_unit_is_known_by_what_comes_before_it(tmp_path: Path) -> None:
    def planned(attacks: str, mode: str = "cascade") -> dict[str, str]:
        prepared = prepare(tmp_path / "results", defenses="loir-8", attacks=attacks, n=4, shard_size=4, mode=mode)
        return {label: unit.key for label, unit in prepared.cells("loir-8").items()}

    apart = planned("tr-apgd-ce-5,apgd-ce-5,rays-30", "full")
    alone, after_one, after_two = planned("rays-30"), planned("apgd-ce-5,rays-30"), planned("tr-fgsm,apgd-ce-5,rays-30")
    assert alone["rays-30"] == apart["rays-30"], "nothing before it: the same work as in a full run"
    assert len({alone["rays-30"], after_one["rays-30"], after_two["rays-30"]}) == 3
    assert after_one["apgd-ce-5"] == apart["apgd-ce-5"] != after_two["apgd-ce-5"]
    assert planned("rays-30,apgd-ce-5") == after_one, "the order in which attacks are asked for is not theirs"


class Backwards(LocalExecutor):
    """Runs units in the reverse order, as far as what they need allows."""

    def run(self, units):
        return super().run(list(reversed(units)))


def test_rows_do_not_depend_on_the_order_of_units(tmp_path: Path) -> None:
    attacks = "rays-30,apgd-ce-5,tr-apgd-ce-5,audit-joint-loss-3,audit-line-3"
    changes = {"defenses": "loir-8", "attacks": attacks, "n": 8, "shard_size": 8}
    run_evaluation(tmp_path / "forwards", **changes, mode="cascade")
    run_evaluation(tmp_path / "backwards", **changes, mode="cascade", executor=Backwards)
    assert rows(tmp_path / "backwards") == rows(tmp_path / "forwards")


def test_parts_of_a_chained_unit_skip_what_was_broken_before(
    cascade: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = AttackUnit.compute
    sizes: set[int] = set()

    def compute(unit: AttackUnit, context: Context) -> dict[str, Rows]:
        # Attacks on defenses fit no more than 12 images.
        if len(unit.shard.ids) > 12 and unit.defense.kind != "none":
            raise MemoryError
        sizes.add(len(unit.shard.ids))
        return whole(unit, context)

    monkeypatch.setattr(AttackUnit, "compute", compute)
    assert not run_evaluation(tmp_path / "results", **DETERMINISTIC, mode="cascade").failed
    assert sizes == {24, 12}
    # What these attacks do to an image depends on neither batch nor seed: only what names the unit differs, and
    # passes, as an attack's look at the number of classes is put down to one image of its batch.
    different = {"unit_key", "seed", "queries", "forwards", "backwards"}

    def compared(catalog: Path) -> list[dict[str, object]]:
        return [{name: value for name, value in row.items() if name not in different} for row in rows(catalog)]

    assert compared(tmp_path / "results") == compared(cascade)


def a_twentieth(patch: pytest.MonkeyPatch) -> str:
    """Give the nine attacks a twentieth of the published steps and queries, and return their labels."""
    versions = {
        "standard": (
            ("apgd-ce", APGD("ce", steps=5)),
            ("apgd-t", TargetedAPGD(steps=5)),
            ("fab-t", FAB(steps=5)),
            ("square", Square(250)),
        ),
        "rand": (("apgd-ce", APGD("ce", steps=5, eot=20)), ("apgd-dlr", APGD("dlr", steps=5, eot=20))),
    }
    patch.setattr(auto_attack, "VERSIONS", {**auto_attack.VERSIONS, **versions})
    averaged = Registration("tr-apgd-eot", partial(TransferEOT, steps=5, collapse=False))
    patch.setitem(REGISTERED, averaged.label, averaged)
    patch.setattr("igd_ray.planning.attack_units.FIRST_STAGE", "tr-apgd-ce-5")
    patch.setattr(AutoAttack, "continues", "tr-apgd-ce-5")
    budgets = {"rays": 500, "tr-rays": 500, "tr-apgd-ce": 5, "tr-apgd-cw": 5, "tr-apgd-t-dlr": 5}
    return ",".join(f"{name}-{budgets[name]}" if name in budgets else name for name in NINE_ATTACKS)


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.075, 0.0])
def test_the_cascade_takes_at_most_half_of_the_passes_of_separate_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sigma: float
) -> None:
    """Both counted by hooks: the nine attacks on none, cdir and loir, for each defense on its own and as published."""
    attacks = a_twentieth(monkeypatch)
    changes = {"defenses": "none,cdir-8,loir-8", "attacks": attacks, "n": 16, "shard_size": 16, "sigma": sigma}
    cascade = prepare(tmp_path / "cascade", **changes, mode="cascade")
    counted = cascade.run()
    assert_counted_recorded_and_bounded(cascade, counted)
    separate = prepare(tmp_path / "separate", **changes)
    naive = [unit for unit in separate.plan.naive() if isinstance(unit, AttackUnit | TransferUnit)]
    # Of each defense nine attacks, of the six transfers also the attack on the base model; on that itself three of the
    # nine are others of them.
    assert len(naive) == 2 * (9 + 6) + 6
    alone = separate.run({unit.key: unit for unit in naive}.values())
    together, apart = (
        sum(sum(passes) for passes in each) for each in (counted.values(), [alone[unit.key] for unit in naive])
    )
    assert together <= 0.5 * apart, f"{together} passes of {apart}"
