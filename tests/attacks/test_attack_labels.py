"""Attack labels: each names one attack with one budget."""

import pytest

from igd_ray.attacks import (
    APGD,
    FAB,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    RayS,
    Square,
    TargetedAPGD,
    TransferAPGD,
    TransferEOT,
    TransferTargetedAPGD,
)
from igd_ray.attacks.base import GRADIENT, QUERY
from igd_ray.attacks.registry import CLEAN, REGISTERED, Registration, known_attacks, parse_attack, register
from igd_ray.errors import InputError
from igd_ray.protocol import ATTACK_GROUPS, AUDIT_ATTACKS, AUDIT_PREFIX, NINE_ATTACKS

LABELS = [
    ("aa", AutoAttack("standard"), False),
    ("aa-rand", AutoAttack("rand"), False),
    ("apgd-eot", AutoAttack("rand"), False),
    ("aa-20", AutoAttack("standard", percent=20), False),
    ("apgd-eot-20", AutoAttack("rand", percent=20), False),
    ("tr-aa", AutoAttack("standard"), True),
    ("tr-aa-50", AutoAttack("standard", percent=50), True),
    ("apgd-ce", APGD("ce", steps=100), False),
    ("apgd-ce-20", APGD("ce", steps=20), False),
    ("apgd-dlr-7", APGD("dlr", steps=7), False),
    ("apgd-t", TargetedAPGD(9, steps=100), False),
    ("apgd-t-50", TargetedAPGD(9, steps=50), False),
    ("fab-t", FAB(9, steps=100), False),
    ("square", Square(5000), False),
    ("square-1000", Square(1000), False),
    ("tr-square-100", Square(100), True),
    ("tr-apgd-ce", TransferAPGD("ce", steps=100), True),
    ("tr-apgd-ce-30", TransferAPGD("ce", steps=30), True),
    ("tr-apgd-dlr", TransferAPGD("dlr", steps=100), True),
    ("tr-apgd-t", TargetedAPGD(9, steps=100), True),
    ("aa-strong", AutoAttack("strong"), False),
    ("tr-aa-strong", AutoAttack("strong"), True),
    ("aa-fast", AutoAttack("fast"), False),
    ("tr-aa-fast", AutoAttack("fast"), True),
    ("apgd-cw", APGD("cw", steps=100), False),
    ("apgd-cw-50", APGD("cw", steps=50), False),
    ("tr-apgd-cw", TransferAPGD("cw", steps=100), True),
    ("tr-apgd-cw-20", TransferAPGD("cw", steps=20), True),
    ("tr-apgd-t-dlr", TransferTargetedAPGD(3, steps=100), True),
    ("tr-apgd-t-dlr-40", TransferTargetedAPGD(3, steps=40), True),
    ("tr-apgd-eot", TransferEOT(steps=100, eot=20, collapse=False), True),
    ("tr-apgd-eot-20", TransferEOT(steps=20, eot=20, collapse=False), True),
    ("rays", RayS(10_000), False),
    ("rays-1000", RayS(1000), False),
    ("tr-rays", RayS(10_000), True),
    ("tr-rays-500", RayS(500), True),
    ("pgd", PGD(50, restarts=1, random_start=True), False),
    ("pgd-200", PGD(200), False),
    ("tr-pgd-10", PGD(10), True),
    ("fgsm", FGSM(), False),
    ("tr-fgsm", FGSM(), True),
]


# The labels of attacks that ask for answers only.
QUERIES = ("square", "rays", "tr-square", "tr-rays", "audit-square-eot")


@pytest.mark.parametrize(("label", "attack", "transfer"), LABELS)
def test_a_label_names_an_attack_and_where_it_runs(label: str, attack: Attack, transfer: bool) -> None:
    parsed = parse_attack(label)
    assert parsed.label == label
    assert type(parsed.algorithm) is type(attack)
    assert parsed.algorithm is not None
    assert parsed.algorithm.settings == attack.settings
    assert parsed.transfer is transfer


def test_clean_attacks_nothing() -> None:
    parsed = parse_attack("clean")
    assert (parsed.label, parsed.algorithm, parsed.transfer) == ("clean", None, False)


def test_the_published_budgets() -> None:
    """METHOD.md: 100 steps, one restart, nine target classes, 5000 queries; EoT 20 for random targets."""
    apgd, targeted, fab, square = AutoAttack("standard").settings["stages"]
    assert apgd == {"attack": "apgd", "loss": "ce", "steps": 100, "restarts": 1, "eot": 1}
    assert targeted == {"attack": "apgd-t", "classes": 9, "steps": 100, "restarts": 1, "eot": 1}
    assert fab == {"attack": "fab-t", "classes": 9, "steps": 100, "restarts": 1}
    assert square == {"attack": "square", "queries": 5000, "restarts": 1}
    first, second = AutoAttack("rand").settings["stages"]
    assert first == {"attack": "apgd", "loss": "ce", "steps": 100, "restarts": 1, "eot": 20}
    assert second == {"attack": "apgd", "loss": "dlr", "steps": 100, "restarts": 1, "eot": 20}


def test_autoattack_in_percent_has_that_share_of_all_steps_and_queries() -> None:
    apgd, targeted, fab, square = AutoAttack("standard", percent=20).settings["stages"]
    assert apgd == {"attack": "apgd", "loss": "ce", "steps": 20, "restarts": 1, "eot": 1}
    assert targeted == {"attack": "apgd-t", "classes": 9, "steps": 20, "restarts": 1, "eot": 1}
    assert fab == {"attack": "fab-t", "classes": 9, "steps": 20, "restarts": 1}
    assert square == {"attack": "square", "queries": 1000, "restarts": 1}
    assert [stage["steps"] for stage in AutoAttack("rand", percent=3).settings["stages"]] == [3, 3]
    assert "percent" not in AutoAttack("standard").settings
    # Its first stage walks in other steps than the published one.
    assert (AutoAttack("standard", percent=20).continues, AutoAttack("standard").continues) == (None, "tr-apgd-ce")


def test_the_stronger_budgets_of_table_9() -> None:
    """METHOD.md: APGD 200 steps × 10 restarts, FAB-T 10 restarts, Square 5 restarts."""
    apgd, targeted, fab, square = AutoAttack("strong").settings["stages"]
    assert apgd == {"attack": "apgd", "loss": "ce", "steps": 200, "restarts": 10, "eot": 1}
    assert targeted == {"attack": "apgd-t", "classes": 9, "steps": 200, "restarts": 10, "eot": 1}
    assert fab == {"attack": "fab-t", "classes": 9, "steps": 100, "restarts": 10}
    assert square == {"attack": "square", "queries": 5000, "restarts": 5}


@pytest.mark.parametrize("label", NINE_ATTACKS)
def test_the_nine_attacks_of_the_worst_case_are_known(label: str) -> None:
    parsed = parse_attack(label)
    assert parsed.algorithm is not None
    assert parsed.transfer is label.startswith("tr-")
    assert label in known_attacks()


def test_no_two_known_labels_ask_for_the_same() -> None:
    """But `apgd-eot`, which is AutoAttack rand under the name that the worst case gives it."""
    asked = {}
    for label in known_attacks():
        parsed = parse_attack(label)
        asked.setdefault((str(parsed.algorithm and dict(parsed.algorithm.settings)), parsed.transfer), []).append(label)
    assert [labels for labels in asked.values() if len(labels) > 1] == [["aa-rand", "apgd-eot"]]


def test_labels_tell_apart_what_queries_and_what_averages() -> None:
    single = {label: parse_attack(label).algorithm for label in known_attacks() if label not in (CLEAN, "apgd-eot")}
    for label, attack in single.items():
        assert attack is not None
        if not isinstance(attack, AutoAttack):
            assert (attack.ways == {QUERY}) == (label in QUERIES), label
    parsed = [parse_attack(label) for label in known_attacks()]
    direct = [attack for attack in parsed if not (attack.transfer or attack.audits)]
    assert {attack.label for attack in direct if attack.averages} == {"aa-rand", "apgd-eot"}


def test_an_ensemble_tells_how_each_of_its_stages_learns_of_the_target() -> None:
    attack = AutoAttack("standard")
    ways = {stage: attack.ways_of(stage) for stage in attack.stages}
    assert ways == {"apgd-ce": {GRADIENT}, "apgd-t": {GRADIENT}, "fab-t": {GRADIENT}, "square": {QUERY}}
    assert RayS().ways_of("rays") == {QUERY}


@pytest.mark.parametrize(("label", "bare"), [("square-5000", "square"), ("tr-apgd-ce-100", "tr-apgd-ce")])
def test_a_published_budget_written_out_is_refused(label: str, bare: str) -> None:
    """Otherwise one attack would stand in the catalog under two names."""
    with pytest.raises(InputError, match=f"published budget; write '{bare}'"):
        parse_attack(label)


def budgeted() -> list[tuple[str, Registration]]:
    """The labels that take a budget, and what their files say of them."""
    named = [(label, parse_attack(label).registration) for label in known_attacks()]
    return [(label, registration) for label, registration in named if registration and registration.budget]


@pytest.mark.parametrize(("name", "registration"), budgeted())
def test_a_number_changes_the_budget_and_the_published_one_written_out_is_refused(
    name: str, registration: Registration
) -> None:
    assert registration.budget is not None
    other = parse_attack(f"{name}-7").algorithm
    assert other is not None
    assert getattr(other, registration.budget) == 7
    unchanged = set(other.settings) - {registration.budget, "step_size", "stages"}
    assert {key: other.settings[key] for key in unchanged} == {
        key: registration.attack().settings[key] for key in unchanged
    }
    with pytest.raises(InputError, match=f"write '{name}'"):
        parse_attack(f"{name}-{registration.published}")


@pytest.mark.parametrize(
    ("label", "close"),
    [
        ("sqare", "'square'"),
        ("apgd-cee", "'apgd-ce'"),
        ("tr-sqare", "'tr-square'"),
        ("autoattack", ""),
        ("AA", ""),
        ("tr-clean", ""),
        ("tr-", ""),
        ("", ""),
        ("aa-strong-20", "'aa-strong'"),
        ("square-", "'square'"),
        ("square-1.5", "'square'"),
        ("square--5", "'square'"),
        ("ray", "'rays'"),
        ("tr-apgd-t-drl", "'tr-apgd-t-dlr'"),
        ("apgd-t-dlr", ""),
        ("tr-aa-rand", ""),
        ("fgsm-2", "'fgsm'"),
    ],
)
def test_an_unknown_label_is_told_with_what_is_known_and_close(label: str, close: str) -> None:
    with pytest.raises(InputError, match=f"unknown attack '{label}'; known: clean, aa,") as error:
        parse_attack(label)
    if close:
        assert f"did you mean {close}" in str(error.value) or f"or {close}" in str(error.value)


@pytest.mark.parametrize("label", ["tr-tr-apgd-ce", "tr-tr-square", "tr-tr-aa"])
def test_a_transfer_is_not_transferred_again(label: str) -> None:
    with pytest.raises(InputError, match="unknown attack"):
        parse_attack(label)


@pytest.mark.parametrize("label", ["square-0", "apgd-ce-020", "square-٣", "square-0100"])
def test_a_budget_is_a_positive_number_written_one_way(label: str) -> None:
    with pytest.raises(InputError):
        parse_attack(label)


@pytest.mark.parametrize("name", known_attacks())
def test_known_names_are_labels(name: str) -> None:
    assert parse_attack(name).label == name


def test_known_names_stand_in_the_order_of_the_protocol_each_once() -> None:
    known = known_attacks()
    assert len(set(known)) == len(known)
    assert [label for label in known if label in (CLEAN, *NINE_ATTACKS)] == [CLEAN, *NINE_ATTACKS]
    audit = ATTACK_GROUPS["audit"]
    assert tuple(known[-len(audit) :]) == audit == (*AUDIT_ATTACKS, "audit-bpda")


def test_every_attack_of_the_audit_is_adaptive_with_an_idea_and_no_other() -> None:
    adaptive = {label: registration for label, registration in REGISTERED.items() if label.startswith(AUDIT_PREFIX)}
    assert set(adaptive) == set(ATTACK_GROUPS["audit"])
    assert all(registration.idea.endswith(".") for registration in adaptive.values())
    assert parse_attack("audit-line-50").idea == adaptive["audit-line"].idea


@pytest.mark.parametrize(
    ("label", "what"),
    [
        ("square", "already"),
        ("clean", "already"),
        ("iwwc", "already"),
        ("Mine", "lower-case"),
        ("mine-2", "digit"),
        ("mine_x", "lower-case"),
        ("audit-mine", "idea"),
    ],
)
def test_a_label_that_is_taken_or_cannot_be_read_back_is_not_registered(label: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        register(label, RayS)
