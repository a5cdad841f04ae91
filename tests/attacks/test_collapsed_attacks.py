"""Collapsed attacks: on a deterministic target one answer stands for many, and the points are the same to the bit."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from igd_ray.attacks import (
    APGD,
    FAB,
    PGD,
    Attack,
    AttackError,
    AttackResult,
    AutoAttack,
    BestStartAPGD,
    DetachedMaskAPGD,
    EoTSquare,
    JointLossAPGD,
    LineAPGD,
    OracleMaskAPGD,
    RayS,
    Square,
    TargetedAPGD,
    TransferAPGD,
    TransferEOT,
    TransferTargetedAPGD,
    WarmStartedAPGD,
    auto_attack,
)
from igd_ray.attacks.adaptive.warm_start import WarmStartedAttack
from igd_ray.threat import Norm, ThreatModel
from tests.toys.attacking import run_attack
from tests.toys.counting import PassCounter

# 20 is the published number, 3 the smallest whose mean of equal numbers may round to a neighbour of theirs.
AVERAGING = [
    APGD("ce", steps=5, eot=20),
    APGD("cw", steps=4, restarts=2, eot=3),
    APGD("dlr", steps=4, eot=7),
    TargetedAPGD(classes=2, steps=4, eot=3),
    EoTSquare(20, eot=3),
    JointLossAPGD("dlr", steps=4, eot=3),
    DetachedMaskAPGD("cw", steps=4, eot=3),
    WarmStartedAPGD("ce", steps=4, eot=3, sources=["transfer"]),
    BestStartAPGD("cw", steps=4, eot=3, sources=["transfer", "white-box"]),
    LineAPGD("ce", steps=4, eot=3),
    AutoAttack("rand"),
]
SHORT = {"rand": (("apgd-ce", APGD("ce", steps=3, eot=20)), ("apgd-dlr", APGD("dlr", steps=5, eot=3)))}
every_averaging_attack = pytest.mark.parametrize("attack", AVERAGING, ids=repr)


@pytest.fixture(scope="module", autouse=True)
def short_autoattack() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto_attack, "VERSIONS", {**auto_attack.VERSIONS, **SHORT})
        yield


@pytest.fixture
def target(defended) -> nn.Module:
    """Two passes without noise: deterministic, and what every attack here can attack."""
    return defended(sigma=0.0)


@pytest.fixture
def labels(target: nn.Module, images: Tensor) -> Tensor:
    """What the defense says of the clean images, one of them wrong."""
    with torch.no_grad():
        labels = target(images).argmax(dim=1)
    labels[3] = (labels[3] + 1) % 10
    return labels


def run_started(attack: Attack, target: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> AttackResult:
    if isinstance(attack, WarmStartedAttack):
        exists = torch.ones_like(labels, dtype=torch.bool)
        step = 0.5 * threat.epsilon / (1 if threat.norm is Norm.LINF else images[0].numel() ** 0.5)
        starts = {"transfer": ((images + step).clamp(0, 1), exists), "white-box": ((images - step).clamp(0, 1), exists)}
        attack = attack.starting_from({name: starts[name] for name in attack.sources})
    return run_attack(attack, target, images, labels, threat, seed=3)


@every_averaging_attack
@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2], ids=str)
def test_the_points_are_the_same_to_the_bit(attack: Attack, norm: Norm, target, images, labels, threat) -> None:
    threat = threat if norm is Norm.LINF else ThreatModel(norm, 0.8)
    averaged = run_started(attack, target, images, labels, threat)
    once = run_started(attack.collapsed(), target, images, labels, threat)
    assert averaged.found.any()
    assert torch.equal(once.adversarial, averaged.adversarial)
    assert torch.equal(once.broken, averaged.broken)
    assert once.stages == averaged.stages


@every_averaging_attack
def test_it_costs_a_fraction_and_four_looks_more(attack: Attack, target, model, images, labels, threat) -> None:
    counts = {}
    for one in (attack, attack.collapsed()):
        with PassCounter(model.conv1) as counter:
            result = run_started(one, target, images, labels, threat)
        assert int(result.forwards.sum()) == counter.forwards
        assert int(result.backwards.sum()) == counter.backwards
        queries, gradients = one.most_passes(10)
        assert int(result.queries.sum()) <= len(images) * (queries + 1)
        assert counter.backwards <= len(images) * gradients
        counts[one is attack] = counter.forwards, counter.backwards
    assert counts[False][0] < counts[True][0]
    least = 3
    assert counts[False][1] * least <= counts[True][1]


def test_the_bound_counts_the_looks_once() -> None:
    plain, once = APGD("ce", steps=10).most_passes(10), APGD("ce", steps=10, eot=20).collapsed().most_passes(10)
    assert once == (plain[0] + 4, plain[1])
    # The class count, AutoAttack's own look, then for each stage: what it needs alone, and a look at its points.
    alone = [APGD("ce", steps=3).most_passes(10), APGD("dlr", steps=5).most_passes(10)]
    assert AutoAttack("rand").collapsed().most_passes(10) == (
        1 + 4 + sum(queries + 1 for queries, _ in alone),
        sum(gradients for _, gradients in alone),
    )


@every_averaging_attack
def test_the_settings_say_so(attack: Attack) -> None:
    def stages(one: Attack) -> list[dict]:
        return one.settings.get("stages", [dict(one.settings)])  # type: ignore[return-value]

    once = attack.collapsed()
    for before, after in zip(stages(attack), stages(once), strict=True):
        assert after == {**before, "eot": 1, "collapsed_eot": before["eot"]}
    assert "collapsed_eot" not in str(attack.settings)
    assert once.collapsed() is once
    assert repr(once) != repr(attack)


@every_averaging_attack
def test_a_random_target_is_an_error(attack: Attack, defended, images, labels, threat) -> None:
    with pytest.raises(AttackError, match="identical ones, but two passes over the same images differ by"):
        run_started(attack.collapsed(), defended(sigma=0.07), images, labels, threat)


@pytest.mark.parametrize(
    "attack",
    [
        APGD("ce"),
        TargetedAPGD(),
        FAB(),
        Square(),
        RayS(),
        PGD(),
        EoTSquare(eot=1),
        OracleMaskAPGD(),
        TransferAPGD(),
        TransferTargetedAPGD(),
        TransferEOT(),
        AutoAttack("standard"),
        AutoAttack("strong"),
    ],
    ids=repr,
)
def test_what_averages_nothing_is_collapsed_already(attack: Attack) -> None:
    assert attack.collapsed() is attack


def test_the_transfer_with_averaged_gradients_collapses_to_the_published_one() -> None:
    collapsed = TransferEOT(collapse=False).collapsed()
    assert collapsed.settings == TransferEOT(collapse=True).settings
    assert collapsed.most_passes(10) == TransferEOT(collapse=True).most_passes(10)


def test_the_order_of_fitting_and_collapsing_does_not_matter() -> None:
    attacks: list[Callable[[], Attack]] = [
        lambda: APGD("dlr", eot=3),
        lambda: TargetedAPGD(eot=3),
        lambda: AutoAttack("rand"),
    ]
    for build in attacks:
        settings = build().for_classes(2).collapsed().settings
        assert settings == build().collapsed().for_classes(2).settings
        assert settings not in (build().collapsed().settings, build().for_classes(2).settings)
