"""GAMA-PGD, held against steps written out by hand."""

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import PGD
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.gama_pgd import GAMAPGD
from igd_ray.attacks.pgd import random_points
from igd_ray.attacks.registry import parse_attack
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel
from tests.toys.attacking import run_attack

BALL = ThreatModel(Norm.LINF, 0.15)


def transcribed(model: nn.Module, images: Tensor, labels: Tensor, start: Tensor, steps: int) -> Tensor:
    """The authors' loop with its published numbers: λ = 50 falls to 0 over the first quarter of the steps."""
    clean = torch.softmax(model(images), dim=1).detach()
    points = start
    for step in range(steps):
        points = points.detach().requires_grad_()
        p = torch.softmax(model(points), dim=1)
        loss = torch.zeros(())
        for row, label in enumerate(labels.tolist()):
            others = [p[row, each] for each in range(p.shape[1]) if each != label]
            margin = torch.stack(others).max() - p[row, label]
            weight = max(0.0, 50 - step * 50 / (0.25 * steps))
            loss = loss + margin + weight * ((p[row] - clean[row]) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, [points])
        size = 2 * 0.15 / (1 if step < 0.6 * steps else 10 if step < 0.85 * steps else 100)
        moved = points.detach() + size * gradient.sign()
        points = torch.minimum(torch.maximum(moved, images - 0.15), images + 0.15).clamp(0, 1)
    return points


@pytest.mark.parametrize("steps", [1, 8, 20])
def test_its_steps_are_those_of_its_authors(steps: int, model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    right = model(images).argmax(dim=1) == labels
    images, labels = images[right], labels[right]
    found = GAMAPGD(steps).search(CountedTarget(model), images, labels, BALL, seed=3).images
    start = random_points(images, BALL, Generator().manual_seed(3))
    expected = transcribed(model, images, labels, start, steps)
    close = torch.isclose(found, expected, atol=1e-5).flatten(1).float().mean(dim=1)
    # A pixel whose gradient rounds to another sign goes another way.
    assert (close > 0.95).all()


def test_it_breaks_about_what_pgd_breaks(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    gama, pgd = (run_attack(each, model, images, labels, BALL) for each in (GAMAPGD(20), PGD(20)))
    assert abs(int(gama.broken.sum()) - int(pgd.broken.sum())) <= 3


def test_its_label_has_a_budget_of_steps() -> None:
    assert parse_attack("gama-pgd").algorithm == GAMAPGD(100)
    assert parse_attack("tr-gama-pgd-7").algorithm == GAMAPGD(7)
    with pytest.raises(InputError, match="guide_weight must be 0 or more"):
        GAMAPGD(guide_weight=-1.0)
