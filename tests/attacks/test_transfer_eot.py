"""Transfer of APGD with averaged gradients: on a deterministic model one gradient is as good as twenty."""

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import TransferAPGD, TransferEOT
from igd_ray.attacks.registry import parse_attack
from igd_ray.attacks.transfer import HIGHEST_LOSS, LAST_MISCLASSIFIED
from igd_ray.threat import Norm, ThreatModel
from tests.toys.attacking import run_attack
from tests.toys.counting import PassCounter

STEPS = 10


@pytest.fixture(scope="module")
def labels(digits: tuple[Tensor, Tensor]) -> Tensor:
    """Two of them wrong."""
    labels = digits[1].clone()
    labels[[1, 4]] = (labels[[1, 4]] + 3) % 10
    return labels


def test_the_label_averages_twenty_gradients_over_a_hundred_steps_and_collapses_them() -> None:
    attack = parse_attack("tr-apgd-eot").algorithm.collapsed()
    assert isinstance(attack, TransferEOT)
    assert (attack.steps, attack.eot, attack.collapse) == (100, 20, True)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2], ids=str)
def test_one_gradient_gives_the_points_of_twenty(norm: Norm, model, images, labels, threat: ThreatModel) -> None:
    threat = threat if norm is Norm.LINF else ThreatModel(norm, 0.8)
    one = run_attack(TransferEOT(steps=STEPS), model, images, labels, threat)
    twenty = run_attack(TransferEOT(steps=STEPS, collapse=False), model, images, labels, threat)
    assert torch.equal(one.broken, twenty.broken)
    assert one.points.keys() == twenty.points.keys()
    for name, (points, exists) in twenty.points.items():
        assert torch.equal(one.points[name][1], exists), name
        if norm is Norm.LINF:  # the sign of a mean of equal gradients is theirs
            assert torch.equal(one.points[name][0], points), name
        else:
            assert torch.allclose(one.points[name][0], points, atol=1e-5), name


def test_it_costs_one_twentieth(model, images, labels, threat: ThreatModel) -> None:
    passes = {}
    for collapse in (True, False):
        with PassCounter(model.conv1) as counter:
            result = run_attack(TransferEOT(steps=STEPS, collapse=collapse), model, images, labels, threat)
        assert int(result.forwards.sum()) == counter.forwards
        assert int(result.backwards.sum()) == counter.backwards
        passes[collapse] = counter.forwards, counter.backwards
    assert passes[True][1] * 20 == passes[False][1] == 20 * 2 * (STEPS + 1) * len(images)
    # What is not a gradient: the class count, the verdict on four points, and, collapsed, four looks for randomness.
    assert passes[False][0] - passes[False][1] == 1 + 4 * len(images)
    assert passes[True][0] - passes[True][1] == 1 + 8 * len(images)


def test_the_four_points_are_those_of_two_transfers(model, digits: tuple[Tensor, Tensor], threat: ThreatModel) -> None:
    """Where the model gets every image right, so that the two have the whole batch as one, too."""
    images, labels = digits
    both = run_attack(TransferEOT(steps=STEPS), model, images, labels, threat)
    assert len(both.points) == 4
    for loss in ("ce", "dlr"):
        single = run_attack(TransferAPGD(loss, steps=STEPS), model, images, labels, threat)
        for name in (HIGHEST_LOSS, LAST_MISCLASSIFIED):
            points, exists = single.points[name]
            assert torch.equal(both.points[f"{loss}-{name}"][0], points), (loss, name)
            assert torch.equal(both.points[f"{loss}-{name}"][1], exists), (loss, name)
    assert any(
        not torch.equal(both.points[f"ce-{name}"][0], both.points[f"dlr-{name}"][0])
        for name in (HIGHEST_LOSS, LAST_MISCLASSIFIED)
    )


def test_with_two_classes_the_margin_takes_the_place_of_dlr(model, images, threat: ThreatModel) -> None:
    class TwoClasses(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return model(images)[:, :2]

    labels = TwoClasses()(images).argmax(dim=1)
    both = run_attack(TransferEOT(steps=STEPS), TwoClasses(), images, labels, threat)
    margin = run_attack(TransferAPGD("cw", steps=STEPS), TwoClasses(), images, labels, threat)
    assert torch.equal(both.points[f"dlr-{HIGHEST_LOSS}"][0], margin.points[HIGHEST_LOSS][0])


def test_a_random_target_is_averaged_where_nothing_is_collapsed(model, images, labels, threat: ThreatModel) -> None:
    """Twenty gradients of a noisy model point more nearly where the noiseless one's does than a single one."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = Generator().manual_seed(0)

        def forward(self, points: Tensor) -> Tensor:
            return model(points + 0.3 * torch.randn(points.shape, generator=self.generator))

    def noiseless_loss(eot: int) -> float:
        attack = TransferEOT(steps=STEPS, eot=eot, collapse=False)
        result = run_attack(attack, Noisy(), images, labels, threat)
        points, _ = result.points[f"ce-{HIGHEST_LOSS}"]
        return float(nn.functional.cross_entropy(model(points), labels))

    assert noiseless_loss(20) > noiseless_loss(1)
