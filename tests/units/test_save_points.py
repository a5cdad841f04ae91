"""`--save-points`: which points of attacks on defenses stay in the catalog; verdicts do not depend on it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from igd_ray.catalog import Catalog, run_query
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import Shard
from igd_ray.units.checks.defense import StoredPointsCheckUnit
from igd_ray.units.judged import point_rows
from tests.toys.counted_runs import Prepared, prepare
from tests.toys.runs import rows, run_evaluation

CHOICES = ("all", "broken", "none")
DIRECT, AUDIT = ("apgd-ce-5", "rays-30"), "audit-best-start-2"
CHANGES = {
    "defenses": "none,loir-8",
    "attacks": f"{','.join(DIRECT)},tr-apgd-ce-5",
    "sigma": 0.05,
    "eps": 0.15,
    "n": 16,
    "shard_size": 16,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Prepared]:
    """An evaluation for each choice, each in a catalog of its own."""
    return evaluated(tmp_path_factory, CHANGES)


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Prepared]:
    """The same with an audit."""
    return evaluated(tmp_path_factory, {**CHANGES, "attacks": f"{CHANGES['attacks']},{AUDIT}"})


def evaluated(tmp_path_factory: pytest.TempPathFactory, changes: Mapping[str, object]) -> Mapping[str, Prepared]:
    evaluations = {}
    for choice in CHOICES:
        evaluations[choice] = prepare(tmp_path_factory.mktemp(choice) / "results", **changes, save_points=choice)
        evaluations[choice].run()
    return evaluations


def points(prepared: Prepared, unit: AttackUnit | TransferUnit) -> list[dict[str, object]]:
    table: list[dict[str, object]] = prepared.context.catalog.read("adversarials", unit.key).to_pylist()
    return table


def images_with_points(prepared: Prepared, unit: AttackUnit | TransferUnit) -> set[object]:
    return {row["image_id"] for row in points(prepared, unit)}


def images_of_status(prepared: Prepared, unit: AttackUnit | TransferUnit, status: str) -> set[object]:
    return {row["image_id"] for row in prepared.outcomes(unit) if row["status"] == status}


@pytest.mark.parametrize("choice", ["broken", "none"])
def test_attacks_on_the_base_model_keep_all_points_and_are_the_same_units(
    saved: Mapping[str, Prepared], choice: str
) -> None:
    everything = saved["all"]
    on_base = [unit for unit in everything.units if isinstance(unit, AttackUnit) and unit.defense.kind == "none"]
    assert len(on_base) == 3
    for unit in on_base:
        mine = next(other for other in saved[choice].units if other.attack.label == unit.attack.label)
        assert mine.key == unit.key
        assert points(saved[choice], mine) == points(everything, unit)
    transfers = next(unit for unit in on_base if unit.attack.label == "tr-apgd-ce-5")
    assert images_with_points(everything, transfers) == set(transfers.shard.ids), "of robust images, too"


@pytest.mark.parametrize("choice", CHOICES)
def test_attacks_on_a_defense_keep_what_was_chosen(saved: Mapping[str, Prepared], choice: str) -> None:
    prepared = saved[choice]
    broken_anywhere = 0
    for label in DIRECT:
        unit = prepared.cells("loir-8")[label]
        broken = images_of_status(prepared, unit, "broken")
        kept = images_with_points(prepared, unit)
        broken_anywhere += len(broken)
        if choice == "all":
            # The judge may find another class than the attack did: some points break nothing.
            assert kept >= broken
        else:
            assert kept == (broken if choice == "broken" else set())
    assert broken_anywhere > 0, "there are no points to keep"


@pytest.mark.parametrize("choice", CHOICES)
def test_every_image_has_its_verdict(saved: Mapping[str, Prepared], choice: str) -> None:
    prepared = saved[choice]
    for cell in prepared.plan.cells:
        outcomes = prepared.outcomes(cell.unit)
        assert [row["image_id"] for row in outcomes] == list(cell.unit.shard.ids)
        assert {row["status"] for row in outcomes} <= {"robust", "broken", "misclassified", "skipped"}


@pytest.mark.parametrize("choice", ["broken", "none"])
def test_transfers_are_the_same_units_with_the_same_rows(saved: Mapping[str, Prepared], choice: str) -> None:
    def carried(prepared: Prepared) -> list[dict[str, object]]:
        unit = prepared.cells("loir-8")["tr-apgd-ce-5"]
        assert isinstance(unit, TransferUnit)
        return [{**row, "seconds": 0, "host": ""} for row in prepared.outcomes(unit)]

    assert carried(saved[choice]) == carried(saved["all"])
    assert {row["status"] for row in carried(saved["all"])} >= {"broken", "robust"}


@pytest.mark.parametrize("choice", CHOICES)
def test_the_audit_starts_from_points_and_keeps_all_of_its_own(audited: Mapping[str, Prepared], choice: str) -> None:
    prepared = audited[choice]
    unit = prepared.cells("loir-8")[AUDIT]
    attacked = images_of_status(prepared, unit, "robust") | images_of_status(prepared, unit, "broken")
    assert attacked, "nothing is left to attack"
    assert images_with_points(prepared, unit) == attacked
    sources = {other.key: other for other in prepared.units}
    for start in unit.starts:
        source = sources[start.unit_key]
        # A direct attack leaves no point where it fails; whatever it leaves is kept for the audit.
        assert source.save_points == "all"
        if start.name not in DIRECT:
            assert images_with_points(prepared, source) >= attacked, "its starts are there"


def test_units_with_other_points_are_other_units(saved: Mapping[str, Prepared]) -> None:
    for label in DIRECT:
        assert len({prepared.cells("loir-8")[label].key for prepared in saved.values()}) == len(CHOICES)
        assert len({prepared.cells("none")[label].key for prepared in saved.values()}) == 1


@pytest.mark.parametrize(("choice", "reviewed"), [("all", 3), ("broken", 3), ("none", 1)])
def test_only_points_that_are_kept_are_reviewed(saved: Mapping[str, Prepared], choice: str, reviewed: int) -> None:
    units = [
        unit
        for unit in saved[choice].plan.inspections
        if isinstance(unit, StoredPointsCheckUnit) and unit.defense.label == "loir-8"
    ]
    assert len(units) == reviewed


def test_verdicts_of_a_deterministic_evaluation_are_the_same_whatever_is_kept(tmp_path: Path) -> None:
    # Attacks that draw nothing at random, on a defense that does not either: seeds, which follow from keys, are idle.
    changes = {"defenses": "none,loir-8", "attacks": "rays-30,fgsm,tr-fgsm", "sigma": 0, "n": 8, "shard_size": 8}

    def verdicts(choice: str) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
        catalog = tmp_path / choice
        assert not run_evaluation(catalog, **changes, save_points=choice).failed
        kept = [{**row, "unit_key": "", "seed": 0} for row in rows(catalog)]
        worst = run_query(Catalog(catalog), "SELECT * EXCLUDE run_id FROM worst_case ORDER BY defense").to_pylist()
        return kept, worst

    expected = verdicts("all")
    assert None not in [row["robust_accuracy"] for row in expected[1]]
    assert verdicts("broken") == expected
    assert verdicts("none") == expected


def test_points_of_large_images_take_a_quarter_of_their_bytes_and_come_back_exactly(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 224, 224), generator=generator) / 255
    signs = torch.randint(0, 2, images.shape, generator=generator) * 2 - 1
    attacked = (images + signs * 4 / 255).clamp(0, 1)
    everywhere = torch.ones(4, dtype=torch.bool)
    shard = Shard("test", 0, 4, tuple("abcd"), "digest")
    key = "0" * 32
    catalog = Catalog(tmp_path / "results")
    catalog.create()
    rows = point_rows(key, shard, {"returned": (attacked, everywhere), "last": (attacked, everywhere)})
    assert [(row["image_id"], row["point"]) for row in rows[:3]] == [
        ("a", "returned"),
        ("a", "last"),
        ("b", "returned"),
    ]
    catalog.commit("adversarials", key, rows)
    assert (tmp_path / f"results/adversarials/{key}.parquet").stat().st_size < 0.25 * 2 * attacked.nbytes
    found = catalog.read("adversarials", key)["pixels"].to_pylist()
    assert torch.equal(torch.tensor(found[::2]).reshape(images.shape), attacked)
    assert found[1::2] == found[::2]


@pytest.mark.parametrize(("values", "kept"), [(64, "all"), (63, "broken")])
def test_points_of_large_images_are_kept_only_where_they_broke_their_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: int, kept: str
) -> None:
    monkeypatch.setattr("igd_ray.units.judged.MOST_VALUES_KEPT", values)
    prepared = prepare(tmp_path / "results", **CHANGES)  # digits have 64 values
    assert {prepared.cells("loir-8")[label].points_unit.save_points for label in DIRECT} == {kept}
    assert {prepared.cells("none")[label].points_unit.save_points for label in DIRECT} == {"all"}
