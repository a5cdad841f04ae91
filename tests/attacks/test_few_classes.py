"""Models with too few classes for DLR: what takes its place, held against linear models of known robustness."""

from collections.abc import Iterator

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import (
    APGD,
    FAB,
    PGD,
    Attack,
    AutoAttack,
    DetachedMaskAPGD,
    JointLossAPGD,
    RayS,
    Square,
    TargetedAPGD,
    TransferAPGD,
    TransferEOT,
    TransferTargetedAPGD,
    WarmStartedAPGD,
    auto_attack,
)
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel
from tests.toys.attacking import run_attack

EPSILON = 0.02
THREAT = ThreatModel(Norm.LINF, EPSILON)
CW_NOTE = "DLR needs 3 classes, the model has 2: the margin −(z_y − max_{j≠y} z_j) took its place"
TARGETED_NOTE = "targeted DLR needs 4 classes, the model has {}: the margin −(z_y − z_t) took its place"


class Linear(nn.Module):
    """z = W x; the pixels of the images below are so grey that the ball never reaches 0 or 1."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        weights = torch.randn(classes, 16, generator=Generator().manual_seed(classes))
        self.register_buffer("weights", weights - weights.mean(dim=1, keepdim=True))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights.T

    def radii(self, images: Tensor, labels: Tensor) -> Tensor:
        """The distance to each other class: (z_y − z_j) / ‖w_y − w_j‖₁, float64 [n, classes]; infinite for y."""
        weights = self.weights.double()
        logits = images.flatten(1).double() @ weights.T
        gaps = logits.gather(1, labels[:, None]) - logits
        lengths = (weights[labels][:, None] - weights).abs().sum(dim=2)
        return (gaps / lengths).nan_to_num(torch.inf)


@pytest.fixture(scope="module", params=[2, 3, 4], ids="{} classes".format)
def linear(request: pytest.FixtureRequest) -> Linear:
    return Linear(request.param)


@pytest.fixture(scope="module")
def images(linear: Linear) -> Tensor:
    images = 0.3 + 0.4 * torch.rand(40, 1, 4, 4, generator=Generator().manual_seed(1))
    radii = linear.radii(images, linear(images).argmax(dim=1))
    # FAB may overshoot by a twentieth; these are clear.
    return images[((radii / EPSILON - 1).abs() > 0.1).all(dim=1)]


@pytest.fixture(scope="module")
def labels(linear: Linear, images: Tensor) -> Tensor:
    return linear(images).argmax(dim=1)


@pytest.fixture
def short() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        stages = (
            ("apgd-ce", APGD("ce", steps=1)),
            ("apgd-t", TargetedAPGD(steps=10)),
            ("fab-t", FAB(steps=5)),
            ("square", Square(20)),
        )
        rand = (("apgd-ce", APGD("ce", steps=1, eot=2)), ("apgd-dlr", APGD("dlr", steps=10, eot=2)))
        patch.setattr(auto_attack, "VERSIONS", {"standard": stages, "rand": rand})
        yield


@pytest.mark.parametrize(
    "attack",
    [
        APGD("cw", steps=10),
        TargetedAPGD(steps=10),
        TargetedAPGD(steps=10, restarts=2, eot=2),
        FAB(steps=10),
        TransferTargetedAPGD(steps=10),
        AutoAttack("standard"),
        AutoAttack("rand"),
    ],
    ids=repr,
)
def test_exactly_the_images_within_epsilon_of_another_class_are_broken(
    attack: Attack, short, linear: Linear, images: Tensor, labels: Tensor
) -> None:
    classes = len(linear.weights)
    fitted = attack.for_classes(classes)
    fitted.check(classes)
    within = linear.radii(images, labels).amin(dim=1) < EPSILON
    assert 5 < int(within.sum()) < len(images) - 5
    result = run_attack(fitted, linear, images, labels, THREAT)
    assert torch.equal(result.broken, within)
    queries, gradients = fitted.most_passes(classes)
    assert int(result.queries.sum()) <= len(images) * (queries + len(result.points))
    assert int(result.backwards.sum()) <= len(images) * gradients


@pytest.mark.parametrize("version", ["standard", "rand"])
def test_autoattack_alone_takes_the_same_fallback(
    version: str, short, linear: Linear, images: Tensor, labels: Tensor
) -> None:
    alone = run_attack(AutoAttack(version), linear, images, labels, THREAT)
    fitted = run_attack(AutoAttack(version).for_classes(len(linear.weights)), linear, images, labels, THREAT)
    assert torch.equal(alone.broken, linear.radii(images, labels).amin(dim=1) < EPSILON)
    assert torch.equal(alone.adversarial, fitted.adversarial)
    assert torch.equal(alone.queries, fitted.queries)


def test_fab_finds_the_distance_of_a_class(linear: Linear, images: Tensor, labels: Tensor) -> None:
    result = run_attack(FAB(steps=20), linear, images, labels, THREAT)
    overstep = (result.distance.double()[:, None] / linear.radii(images, labels))[result.broken]
    # It oversteps the boundary by a factor of at most 1.05.
    assert ((overstep > 1 - 1e-4) & (overstep < 1.06)).any(dim=1).all()


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (APGD("dlr", steps=7, restarts=2, eot=3), APGD("cw", steps=7, restarts=2, eot=3)),
        (TransferAPGD("dlr", steps=7), TransferAPGD("cw", steps=7)),
        (JointLossAPGD("dlr", steps=7, eot=3), JointLossAPGD("cw", steps=7, eot=3)),
        (
            DetachedMaskAPGD("dlr", steps=7, backward="identity"),
            DetachedMaskAPGD("cw", steps=7, backward="identity"),
        ),
        (WarmStartedAPGD("dlr", sources=["transfer"]), WarmStartedAPGD("cw", sources=["transfer"])),
    ],
    ids=repr,
)
def test_with_two_classes_the_margin_takes_the_place_of_dlr(attack: Attack, expected: Attack) -> None:
    assert attack.for_classes(2).settings == expected.settings
    assert attack.for_classes(3) is attack
    assert attack.fallback_notes(2) == (CW_NOTE,)
    assert attack.fallback_notes(3) == ()
    attack.for_classes(2).check(2)
    with pytest.raises(InputError, match="at least 3 classes"):
        attack.check(2)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_targeted_margin_is_said_in_the_settings(classes: int) -> None:
    attack = TargetedAPGD(steps=7, restarts=2, eot=3)
    assert attack.for_classes(classes).settings == {**attack.settings, "loss": "margin"}
    assert attack.for_classes(classes).for_classes(classes).settings == {**attack.settings, "loss": "margin"}
    assert "loss" not in attack.settings
    assert attack.for_classes(4) is attack
    with pytest.raises(InputError, match="at least 4 classes"):
        attack.check(classes)


def test_autoattack_says_what_its_stages_are() -> None:
    standard, rand = AutoAttack("standard"), AutoAttack("rand")
    for classes in (2, 3):
        fitted = standard.for_classes(classes)
        stages = standard.settings["stages"]
        stages[1]["loss"] = "margin"
        assert fitted.settings == {**standard.settings, "stages": stages, "few_classes": "margin"}
        assert fitted.stages == standard.stages
        assert repr(fitted) != repr(standard)
    assert [stage["loss"] for stage in rand.for_classes(2).settings["stages"]] == ["ce", "cw"]
    assert rand.for_classes(2).settings["few_classes"] == "margin"
    for attack, enough in ((standard, 4), (rand, 3)):
        assert attack.for_classes(enough) is attack
        assert attack.for_classes(1000) is attack


@pytest.mark.parametrize(
    "attack",
    [APGD("ce"), APGD("cw"), FAB(), Square(), RayS(), PGD(), TransferTargetedAPGD(), TransferEOT(), TransferAPGD("ce")],
    ids=repr,
)
def test_what_fits_two_classes_stays_as_it_is(attack: Attack) -> None:
    assert attack.for_classes(2) is attack


@pytest.mark.parametrize(
    ("attack", "classes", "notes"),
    [
        (TargetedAPGD(), 10, ()),
        (TargetedAPGD(), 5, ("aims at 4 of 9 target classes",)),
        (TargetedAPGD(), 2, (TARGETED_NOTE.format(2), "aims at 1 of 9 target classes")),
        (TargetedAPGD(2), 3, (TARGETED_NOTE.format(3),)),
        (FAB(), 10, ()),
        (FAB(), 3, ("aims at 2 of 9 target classes",)),
        (TransferTargetedAPGD(), 4, ()),
        (TransferTargetedAPGD(), 3, (TARGETED_NOTE.format(3), "aims at 2 of 3 target classes")),
        (TransferEOT(), 3, ()),
        (TransferEOT(), 2, (CW_NOTE,)),
        (AutoAttack("standard"), 10, ()),
        (AutoAttack("rand"), 2, (f"apgd-dlr: {CW_NOTE}",)),
        (AutoAttack("standard"), 5, tuple(f"{stage}: aims at 4 of 9 target classes" for stage in ("apgd-t", "fab-t"))),
        (
            AutoAttack("strong"),
            2,
            (
                f"apgd-t: {TARGETED_NOTE.format(2)}",
                "apgd-t: aims at 1 of 9 target classes",
                "fab-t: aims at 1 of 9 target classes",
            ),
        ),
        (APGD("cw"), 2, ()),
        (Square(), 2, ()),
    ],
    ids=repr,
)
def test_notes_name_what_was_replaced_or_cut_down(attack: Attack, classes: int, notes: tuple[str, ...]) -> None:
    assert attack.fallback_notes(classes) == notes


def test_fewer_target_classes_are_no_other_settings() -> None:
    for attack in (TargetedAPGD(), FAB(), AutoAttack("standard"), AutoAttack("strong")):
        assert attack.for_classes(5) is attack
