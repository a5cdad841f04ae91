"""What the attacks of one defense say of each other, from outcome rows written by hand."""

from collections.abc import Sequence
from pathlib import Path

from igd_ray.attacks.registry import parse_attack
from igd_ray.catalog import Catalog
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.defenses.specs import NONE, DefenseSpec
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import Shard
from igd_ray.units.checks.defense import compare_attacks
from igd_ray.units.judged import JudgedUnit
from tests.toys.runs import settings_for

IMAGES = Shard("test", 0, 12, tuple(f"image-{number}" for number in range(12)), "digest")
DEFENSE = DefenseSpec("loir-2", "model", "masking", k=2)

# Outcomes of the twelve images: R robust, B broken, N broken by noise alone at distance 0, S skipped.
STATUSES = {"R": "robust", "B": "broken", "N": "broken", "S": "skipped"}


def attacked(
    catalog: Catalog, label: str, letters: str, stages: Sequence[str | None] = (None,) * 12, after: tuple[str, ...] = ()
) -> JudgedUnit:
    """One attack, direct or transferred, whose outcomes `letters` say."""
    attack = parse_attack(label)
    threat = settings_for(Path("unused")).threat
    base = AttackUnit(DefenseSpec(NONE, "model"), attack, threat, IMAGES, 0, None, 1)
    direct = AttackUnit(DEFENSE, attack, threat, IMAGES, 0, None, 1, after=after)
    unit = TransferUnit(DEFENSE, attack, base, 1, after=after) if attack.transfer else direct
    rows = [
        {
            **dict.fromkeys(SCHEMAS["outcomes"].names),
            "unit_key": unit.key,
            "defense": DEFENSE.label,
            "attack": label,
            "image_id": image_id,
            "status": STATUSES[letter],
            "stage": stage,
            "distance": 0.1 if letter == "B" else 0.0,
        }
        for image_id, letter, stage in zip(IMAGES.ids, letters, stages, strict=True)
    ]
    catalog.commit("outcomes", unit.key, rows)
    return unit


def compared(catalog: Catalog, *units: JudgedUnit) -> dict[str, tuple[str, float | None]]:
    return {finding.check: (finding.severity, finding.value) for finding in compare_attacks(catalog, units)}


def test_transfers_that_break_what_direct_attacks_leave_are_a_warning(catalog: Catalog) -> None:
    direct = attacked(catalog, "apgd-ce", "BBBRRRRRRRRR")
    few, many = attacked(catalog, "tr-apgd-ce", "BBBBBBRRRRRR"), attacked(catalog, "tr-apgd-cw", "RRRRRRBBBBBB")
    # Three alone may be chance, nine may not.
    assert compared(catalog, direct, few) == {"transfer-beats-direct": ("info", 3)}
    assert compared(catalog, direct, few, many) == {"transfer-beats-direct": ("warning", 9)}
    stronger = attacked(catalog, "apgd-cw", "BBBBBBBBBBBB")
    assert compared(catalog, direct, few, many, stronger) == {"transfer-beats-direct": ("info", 0)}


def test_what_noise_broke_no_attack_did(catalog: Catalog) -> None:
    direct = attacked(catalog, "apgd-ce", "RRRRRRRRRRRR")
    transfer = attacked(catalog, "tr-apgd-ce", "NNNNNNNNNNNN")
    assert compared(catalog, direct, transfer) == {"transfer-beats-direct": ("info", 0)}


def test_query_attacks_that_break_what_gradients_leave_are_a_warning(catalog: Catalog) -> None:
    gradient = attacked(catalog, "apgd-ce", "BBRRRRRRRRRR")
    query = attacked(catalog, "square", "RBBBBBRRRRRR", ("square",) * 12)
    assert compared(catalog, gradient, query) == {"query-beats-gradient": ("warning", 4)}
    # A stage of an ensemble is what broke an image, not the ensemble.
    ensemble = attacked(catalog, "aa", "BBBBBBRRRRRR", ("apgd-ce",) * 2 + ("fab-t",) * 4 + (None,) * 6)
    assert compared(catalog, ensemble, query) == {"query-beats-gradient": ("info", 0)}


def test_of_a_cascade_only_images_count_that_gradients_attacked(catalog: Catalog) -> None:
    first = attacked(catalog, "square", "BBBBBBRRRRRR", ("square",) * 12)
    second = attacked(catalog, "apgd-ce", "SSSSSRBBRRRR", after=(first.key,))
    assert compared(catalog, first, second) == {"query-beats-gradient": ("warning", 1)}
    transfer = attacked(catalog, "tr-apgd-ce", "BBBBBBBBRRRR")
    assert compared(catalog, transfer, second)["transfer-beats-direct"][1] is None, "direct attacks skipped those"
