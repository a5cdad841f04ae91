"""AutoAttack that continues a transfer: its first stage is that attack's trajectory, and nothing else changes."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from igd_ray.attacks import APGD, FAB, AttackResult, AutoAttack, Square, TargetedAPGD, TransferAPGD, auto_attack
from igd_ray.attacks.transfer import LAST_MISCLASSIFIED
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel
from tests.toys.attacking import run_attack
from tests.toys.counting import PassCounter

STEPS = 1
SHORT = (
    ("apgd-ce", APGD("ce", steps=STEPS)),
    ("apgd-t", TargetedAPGD(classes=3, steps=10)),
    ("fab-t", FAB(classes=2, steps=5)),
    ("square", Square(20)),
)
WRONG_ROWS = [2, 7]


@pytest.fixture
def short() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "VERSIONS", {**auto_attack.VERSIONS, "standard": SHORT})
        yield


@pytest.fixture(scope="module")
def labels(digits: tuple[Tensor, Tensor]) -> Tensor:
    labels = digits[1].clone()
    labels[WRONG_ROWS] = (labels[WRONG_ROWS] + 3) % 10
    return labels


def first_points(model, images, labels, threat, steps: int = STEPS, seed: int = 0) -> tuple[Tensor, Tensor]:
    return run_attack(TransferAPGD("ce", steps=steps), model, images, labels, threat, seed).points[LAST_MISCLASSIFIED]


def assert_same(one: AttackResult, other: AttackResult) -> None:
    assert torch.equal(one.adversarial, other.adversarial)
    assert torch.equal(one.broken, other.broken)
    assert torch.equal(one.found, other.found)
    assert torch.equal(one.distance, other.distance)
    assert one.stages == other.stages


@pytest.mark.parametrize("seed", [11, 4])
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2], ids=str)
def test_points_stages_and_verdicts_are_those_of_autoattack(
    short, norm: Norm, seed: int, model, images, labels, threat
) -> None:
    threat = threat if norm is Norm.LINF else ThreatModel(norm, 0.6)
    points, fooled = first_points(model, images, labels, threat, seed=seed)
    assert fooled[WRONG_ROWS].any(), "otherwise nothing shows that points of misclassified images are left aside"
    plain = run_attack(AutoAttack("standard"), model, images, labels, threat, seed)
    assert_same(
        run_attack(AutoAttack("standard").continuing(points, fooled), model, images, labels, threat, seed), plain
    )
    assert "apgd-ce" in plain.stages
    assert len(set(plain.stages)) > 2, "the later stages break nothing: the comparison shows little"
    assert [plain.stages[row] for row in WRONG_ROWS] == [None, None]


@pytest.mark.parametrize("wrong", [[], list(range(12))], ids=["all correct", "all misclassified"])
def test_one_of_the_two_batches_may_be_empty(short, wrong: list[int], model, digits, threat) -> None:
    images, labels = digits[0], digits[1].clone()
    labels[wrong] = (labels[wrong] + 3) % 10
    points, fooled = first_points(model, images, labels, threat)
    attack = AutoAttack("standard").continuing(points, fooled)
    assert_same(
        run_attack(attack, model, images, labels, threat), run_attack(AutoAttack(), model, images, labels, threat)
    )


@pytest.mark.slow
def test_points_stages_and_verdicts_are_those_of_autoattack_as_published(model, images, labels, threat) -> None:
    rows = [1, 2, 10, 11]
    images, labels = images[rows], labels[rows]
    points, fooled = first_points(model, images, labels, threat, steps=100)
    plain = run_attack(AutoAttack("standard"), model, images, labels, threat)
    assert_same(run_attack(AutoAttack("standard").continuing(points, fooled), model, images, labels, threat), plain)
    assert "apgd-ce" in plain.stages


def test_the_first_stage_costs_no_more_than_the_look_at_its_points(short, model, images, labels, threat) -> None:
    points, fooled = first_points(model, images, labels, threat)
    passes = {}
    for name, attack in (("plain", AutoAttack()), ("given", AutoAttack().continuing(points, fooled))):
        with PassCounter(model.conv1) as counter:
            result = run_attack(attack, model, images, labels, threat)
        assert int(result.forwards.sum()) == counter.forwards == int(result.queries.sum())
        assert int(result.backwards.sum()) == counter.backwards
        queries, gradients = attack.most_passes(10)
        assert counter.forwards <= len(images) * (queries + 1)
        assert counter.backwards <= len(images) * gradients
        passes[name] = counter.forwards, counter.backwards, queries, gradients
    saved = [before - after for before, after in zip(passes["plain"], passes["given"], strict=True)]
    attacked = len(images) - len(WRONG_ROWS)
    # The stage's own look, its start and its steps; the bound keeps the look at the number of classes.
    assert saved == [attacked * (STEPS + 2), attacked * (STEPS + 1), STEPS + 2, STEPS + 1]


def test_the_settings_say_so(short) -> None:
    points, fooled = torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.bool)
    plain = AutoAttack("standard")
    given = plain.continuing(points, fooled)
    assert given.settings == {**plain.settings, "first_stage": "given"}
    assert "first_stage" not in plain.settings
    assert repr(given) == "AutoAttack('standard', first_stage='given')"
    assert (given.stages, given.ways) == (plain.stages, plain.ways)
    for fitted in (given.for_classes(3), plain.for_classes(3).continuing(points, fooled)):
        assert fitted.settings == {**plain.for_classes(3).settings, "first_stage": "given"}


def test_points_that_do_not_hold_break_nothing(short, model, images, labels, threat) -> None:
    """The clean images, said to fool: the target, asked afresh, says otherwise, and the later stages go on."""
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    result = run_attack(AutoAttack().continuing(images, everywhere), model, images, labels, threat)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "VERSIONS", {"standard": SHORT[1:]})
        assert_same(result, run_attack(AutoAttack(), model, images, labels, threat))
    assert result.found.any()


def test_where_there_is_no_point_its_row_is_not_looked_at(short, model, images, labels, threat) -> None:
    points, fooled = first_points(model, images, labels, threat)
    assert not fooled.all()
    blank = torch.where(fooled[:, None, None, None], points, torch.nan)
    blanked = run_attack(AutoAttack().continuing(blank, fooled), model, images, labels, threat)
    assert_same(blanked, run_attack(AutoAttack(), model, images, labels, threat))


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda points, fooled: (points[:-1], fooled), r"first stage's points must be torch.float32 \[12, 1, 8, 8\]"),
        (lambda points, fooled: (points.double(), fooled), "must be torch.float32 .* not torch.float64"),
        (lambda points, fooled: (points, fooled[:-1]), r"points exist must be bool \[12\], not torch.bool \[11\]"),
        (lambda points, fooled: (points, fooled.long()), r"points exist must be bool \[12\], not torch.int64"),
        (lambda points, fooled: (points.roll(1, dims=0), ~fooled | fooled), r"points lie outside linf 0.15 or \[0, 1"),
        (lambda points, fooled: (points - 0.01, ~fooled | fooled), "points lie outside"),
        (lambda points, fooled: (points * torch.nan, ~fooled | fooled), "12 of 12 the first stage's points lie"),
    ],
)
def test_points_of_other_images_are_refused(spoil: Callable, what: str, model, images, labels, threat) -> None:
    given = spoil(*first_points(model, images, labels, threat))
    with pytest.raises(InputError, match=what):
        run_attack(AutoAttack().continuing(*given), model, images, labels, threat)


@pytest.mark.parametrize("version", ["rand", "strong"])
def test_only_the_standard_version_continues(version: str, images: Tensor, labels: Tensor) -> None:
    with pytest.raises(InputError, match=f"only AutoAttack 'standard' can continue given points, not '{version}'"):
        AutoAttack(version).continuing(images, labels > 0)
