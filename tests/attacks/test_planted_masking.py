"""A model whose gradients are masked on purpose: attacks that follow gradients fail, Square does not."""

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import APGD, FAB, AttackResult, Square
from igd_ray.checks import WARNING, check_query_beats_gradient, check_zero_gradient
from igd_ray.data import load_images
from igd_ray.threat import ThreatModel


class QuantisedInputs(nn.Module):
    """Rounds pixels to eight levels, which leaves no gradient at all."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images * 7).round() / 7)


@pytest.fixture(scope="module")
def broken(model: nn.Module, threat: ThreatModel) -> dict[str, AttackResult]:
    data = load_images("digits", n=48)
    target = QuantisedInputs(model)
    attacks = {"apgd": APGD("ce", steps=30), "dlr": APGD("dlr", steps=30), "square": Square(300)}
    return {
        name: attack(target, data.images, data.labels, threat=threat, generator=Generator().manual_seed(0))
        for name, attack in attacks.items()
    }


def test_square_breaks_images_that_apgd_does_not(broken: dict[str, AttackResult]) -> None:
    by_gradient = broken["apgd"].broken | broken["dlr"].broken
    assert (broken["square"].broken & ~by_gradient).any()
    assert broken["square"].broken.sum() > by_gradient.sum()


def test_the_checks_see_it(broken: dict[str, AttackResult], model: nn.Module) -> None:
    by_gradient = broken["apgd"].broken | broken["dlr"].broken
    only_by_queries = int((broken["square"].broken & ~by_gradient).sum())
    assert check_query_beats_gradient(only_by_queries, int(broken["square"].broken.sum())).severity == WARNING
    data = load_images("digits", n=48)
    finding = check_zero_gradient(QuantisedInputs(model), data.images, data.labels)
    assert (finding.severity, finding.value) == (WARNING, 1.0)


def test_a_gradient_of_zero_is_no_failure_of_the_attack(model: nn.Module, threat: ThreatModel) -> None:
    """FAB divides by the gradient's length; its points stay images within the ball all the same."""
    data = load_images("digits", n=4)
    result = FAB(classes=2, steps=5)(
        QuantisedInputs(model), data.images, data.labels, threat=threat, generator=Generator()
    )
    assert torch.isfinite(result.adversarial).all()
    assert result.distance.max() <= threat.epsilon + 1e-6


def test_without_masking_apgd_breaks_what_square_breaks(model: nn.Module, threat: ThreatModel) -> None:
    data = load_images("digits", n=48)
    broken = [
        attack(model, data.images, data.labels, threat=threat, generator=Generator().manual_seed(0)).broken
        for attack in (APGD("ce", steps=30), Square(300))
    ]
    assert not (broken[1] & ~broken[0]).any()
