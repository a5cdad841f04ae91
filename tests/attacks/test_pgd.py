"""PGD and FGSM, held against steps written out by hand."""

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from igd_ray.attacks import FGSM, PGD
from igd_ray.attacks.pgd import project, random_points, steepest
from igd_ray.threat import Norm, ThreatModel
from tests.toys.attacking import run_attack
from tests.toys.counting import PassCounter
from tests.toys.models import LinearModel

BALLS = [ThreatModel(Norm.LINF, 0.15), ThreatModel(Norm.L2, 0.8)]
every_ball = pytest.mark.parametrize("ball", BALLS, ids=str)


# The second class is likelier the larger 3·a − 4·b is for an image of the pixels a and b.
TWO_PIXELS = [[0.0, 0.0], [3.0, -4.0]]


def pixels(*rows: tuple[float, float]) -> Tensor:
    return torch.tensor(rows)[:, None, None, :]


def test_one_step_of_fgsm_by_hand() -> None:
    """Away from the first class, the gradient points along (3, −4): signs (+, −), and (0.6, −0.8) in the 2-norm."""
    images, labels = pixels((0.5, 0.5), (0.95, 0.02)), torch.tensor([0, 1])
    by_sign = run_attack(FGSM(), LinearModel(TWO_PIXELS), images, labels, ThreatModel(Norm.LINF, 0.1))
    assert torch.allclose(by_sign.adversarial.flatten(1), torch.tensor([[0.6, 0.4], [0.85, 0.12]]))
    by_length = run_attack(FGSM(), LinearModel(TWO_PIXELS), images, labels, ThreatModel(Norm.L2, 0.1))
    assert torch.allclose(by_length.adversarial.flatten(1), torch.tensor([[0.56, 0.42], [0.89, 0.10]]))


def test_a_step_beyond_the_image_range_ends_there() -> None:
    images, labels = pixels((0.95, 0.75)), torch.tensor([0])
    result = run_attack(FGSM(), LinearModel(TWO_PIXELS), images, labels, ThreatModel(Norm.LINF, 0.1))
    assert torch.allclose(result.adversarial.flatten(), torch.tensor([1.0, 0.65]))
    assert result.broken.all()


@every_ball
def test_its_steps_are_those_of_madry(ball: ThreatModel, model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    result = run_attack(PGD(5, step_size=0.4, random_start=False), model, images, labels, ball)
    points = images.double()
    for _ in range(5):
        shown = points.float().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(shown), labels, reduction="sum"), [shown])
        gradient = gradient.double()
        for row in range(len(images)):
            if ball.norm is Norm.LINF:
                step = gradient[row].sign()
            else:
                step = gradient[row] / gradient[row].square().sum().sqrt()
            moved = points[row] + 0.4 * ball.epsilon * step - images[row]
            if ball.norm is Norm.LINF:
                moved = torch.minimum(torch.maximum(moved, torch.tensor(-ball.epsilon)), torch.tensor(ball.epsilon))
            else:
                moved = moved / max(1.0, float(moved.square().sum().sqrt()) / ball.epsilon)
            points[row] = (images[row] + moved).clamp(0, 1)
    assert torch.allclose(result.points["returned"][0], points.float(), atol=1e-5)


def test_the_usual_step_is_two_and_a_half_radii_over_all_steps() -> None:
    assert PGD(50).settings == PGD(50, step_size=0.05).settings
    assert PGD(10).step_size == pytest.approx(0.25)


def test_an_image_that_holds_out_keeps_its_last_iterate(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    """The analysis compares what successful and unsuccessful attacks do inside the model."""
    result = run_attack(PGD(10), model, *digits, ThreatModel(Norm.LINF, 0.05))
    assert result.found.all()
    assert set(result.stages) == {"pgd"}
    assert not result.broken.all()
    assert torch.allclose(result.distance, torch.tensor(0.05), atol=1e-6)


def test_later_restarts_attack_only_what_is_still_right(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    images, labels = digits
    ball = ThreatModel(Norm.LINF, 0.1)
    one = run_attack(PGD(4), model, images, labels, ball)
    with PassCounter(model.conv1) as counter:
        three = run_attack(PGD(4, restarts=3), model, images, labels, ball)
    assert one.broken.any()
    assert not one.broken.all()
    assert torch.equal(three.adversarial[one.broken], one.adversarial[one.broken])
    assert (three.adversarial[~one.broken] != one.adversarial[~one.broken]).flatten(1).any(dim=1).all()
    assert not (one.broken & ~three.broken).any()
    most = 4 * (len(images) + 2 * int((~one.broken).sum()))
    assert 4 * (len(images) + int((~one.broken).sum())) < counter.backwards <= most


@every_ball
def test_random_starts_fill_the_ball_evenly(ball: ThreatModel) -> None:
    images = torch.full((20_000, 1, 1, 3), 0.5)
    small = ThreatModel(ball.norm, 0.1)
    offsets = (random_points(images, small, Generator().manual_seed(0)) - images).flatten(1) / small.epsilon
    radii = small.norm.distance(offsets, torch.zeros_like(offsets))
    assert radii.max() <= 1 + 1e-5
    # The share of a ball's volume within half of its radius is 1/2³.
    assert (radii <= 0.5).float().mean() == pytest.approx(1 / 8, abs=0.01)
    assert offsets.mean(dim=0).abs().max() < 0.02
    assert (offsets > 0).float().mean() == pytest.approx(0.5, abs=0.01)


@every_ball
def test_what_lies_in_the_ball_stays_where_it_is(ball: ThreatModel) -> None:
    images = torch.rand(50, 1, 4, 4, generator=Generator().manual_seed(0))
    inside = random_points(images, ball, Generator().manual_seed(1))
    assert torch.allclose(project(inside, images, ball), inside, atol=1e-7)
    outside = project(images + 3 * (torch.rand(images.shape, generator=Generator().manual_seed(2)) - 0.5), images, ball)
    assert ball.norm.distance(outside, images).max() <= ball.epsilon + 1e-6
    assert outside.min() >= 0
    assert outside.max() <= 1


def test_a_gradient_of_zero_moves_nothing() -> None:
    for norm in Norm:
        assert torch.equal(steepest(torch.zeros(2, 1, 2, 2), norm), torch.zeros(2, 1, 2, 2))
