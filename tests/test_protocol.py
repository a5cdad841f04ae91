"""The protocol's order of attacks, and what it says of attacks that a run leaves out."""

from igd_ray.protocol import (
    AUDIT_ATTACKS,
    NINE_ATTACKS,
    attack_order,
    audits_among,
    unplanned_attacks,
    unplanned_audits,
)


def test_attacks_stand_in_the_order_of_the_protocol() -> None:
    mixed = ["adaptive", "tr-apgd-eot", "rays-1000", "clean", "tr-aa", "rays", "aa"]
    assert sorted(mixed, key=attack_order) == ["clean", "aa", "rays", "rays-1000", "tr-aa", "tr-apgd-eot", "adaptive"]


def test_every_attack_planned_leaves_nothing_open() -> None:
    direct = [name for name in NINE_ATTACKS if not name.startswith("tr-")]
    assert unplanned_attacks({"none": direct, "loir-2": NINE_ATTACKS}) == []
    assert unplanned_attacks({}) == []


def test_attacks_not_planned_are_named_with_where_and_what_instead() -> None:
    rest = [name for name in NINE_ATTACKS if name not in ("rays", "tr-aa")]
    planned = {"none": [*rest, "rays-1000"], "loir-2": [*rest, "rays-1000", "tr-aa"], "hedge": [*rest, "rays-1000"]}
    assert unplanned_attacks(planned) == [
        "rays was not run; in its place, with another budget: rays-1000.",
        "tr-aa was not run on hedge.",
    ]


def test_an_attack_with_two_budgets_is_one_of_the_eight() -> None:
    assert audits_among(["audit-line", "audit-line-50", "audit-best-start-9", "aa", "audit-unheard-of"]) == 2
    assert audits_among(AUDIT_ATTACKS) == 8


def test_a_whole_audit_and_none_at_all_leave_nothing_of_it_open() -> None:
    assert unplanned_audits([*NINE_ATTACKS, *AUDIT_ATTACKS], []) == []
    assert unplanned_audits(NINE_ATTACKS, []) == []
    assert unplanned_audits(AUDIT_ATTACKS[1:], []) == [
        "Of the audit's 8 adaptive attacks no defense faced audit-transfer-start."
    ]
    assert unplanned_audits(AUDIT_ATTACKS[1:], ["audit-transfer-start on none"]) == []


def test_the_audit_stands_behind_all_other_attacks_in_its_own_order() -> None:
    mixed = ["audit-other", "audit-line-9", "square", "tr-rays", "audit-joint-loss", "clean", "audit-line"]
    ordered = ["clean", "tr-rays", "square", "audit-joint-loss", "audit-line", "audit-line-9", "audit-other"]
    assert sorted(mixed, key=attack_order) == ordered
