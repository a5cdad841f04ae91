"""The anti-adversary: by hand, and against the published algorithm written out."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.data import load_images
from igd_ray.defenses import AntiAdversaryDefense
from igd_ray.models.demo import demo_model
from tests.toys.models import LinearModel, tiny_model

DIGITS = load_images("digits", n=12).images.double()


def published_shift(model: nn.Module, x: Tensor, steps: int, step_size: float) -> Tensor:
    """γ by algorithm 1: the class is that of x, found by a pass of its own, and never again."""
    predicted = [int(model(image[None]).argmax()) for image in x]
    shift = torch.zeros_like(x)
    for _ in range(steps):
        for index, label in enumerate(predicted):
            at = (x[index : index + 1] + shift[index]).detach().requires_grad_()
            loss = -functional.log_softmax(model(at), dim=1)[0, label]
            shift[index] -= step_size * torch.autograd.grad(loss, at)[0][0].sign()
    return shift


# z₁ − z₂ = 2 x₁ − x₂ of three pixels.
THREE_PIXELS = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_three_pixels_by_hand() -> None:
    # x = (0.875, 0.125, 0.5) is class 1: its margin grows with x₁ and falls with x₂, so γ = 2·0.125·(1, −1, 0).
    # x + γ = (1.125, −0.125, 0.5) is outside [0, 1], and not clipped: f = (2.25, −0.125).
    defense = AntiAdversaryDefense(LinearModel(THREE_PIXELS), steps=2, step_size=0.125)
    x = torch.tensor([0.875, 0.125, 0.5]).view(1, 1, 1, 3)
    assert defense.anti_adversary(x).flatten().tolist() == [0.25, -0.25, 0.0]
    assert defense(x).tolist() == [[2.25, -0.125]]
    # x = (0.25, 0.75, 0.5) is class 2: the other way, x + γ = (0, 1, 0.5).
    x = torch.tensor([0.25, 0.75, 0.5]).view(1, 1, 1, 3)
    assert defense(x).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(("steps", "step_size"), [(1, 0.15), (2, 0.15), (2, 0.01), (4, 0.03)])
def test_logits_and_gradient_are_the_base_model_s_at_the_published_point(steps: int, step_size: float) -> None:
    model = demo_model().double()
    defense = AntiAdversaryDefense(model, steps=steps, step_size=step_size)
    shift = published_shift(model, DIGITS, steps, step_size)
    assert torch.equal(defense.anti_adversary(DIGITS), shift)
    here, there = DIGITS.clone().requires_grad_(), (DIGITS + shift).requires_grad_()
    torch.testing.assert_close(defense(here), model(there), rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(defense(here)[:, 3].sum(), here)
    (expected,) = torch.autograd.grad(model(there)[:, 3].sum(), there)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


def test_the_class_is_predicted_once() -> None:
    class TwoFaced(nn.Module):
        """Says class 1 at pixels of at most 0.5 and class 2 above; class 1's logit always rises with the pixel."""

        def forward(self, x: Tensor) -> Tensor:
            pixel = x.flatten(1)
            return torch.cat([pixel, torch.where(pixel > 0.5, 3 * pixel, 0 * pixel)], dim=1)

    # From 0.4 (class 1) a step leads to 0.6 (class 2); the second step still aims at class 1: down again, to 0.4.
    # Aimed at class 2, it would lead to 0.8.
    shift = AntiAdversaryDefense(TwoFaced(), steps=2, step_size=0.2).anti_adversary(torch.full((1, 1, 1, 1), 0.4))
    assert shift.item() == pytest.approx(0)


def test_steps_lower_the_cross_entropy_to_the_predicted_class() -> None:
    model = demo_model().double()
    predicted = model(DIGITS).argmax(dim=1)
    defense = AntiAdversaryDefense(model, steps=2, step_size=0.02)

    def loss(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, predicted, reduction="none")

    assert (loss(defense(DIGITS)) < loss(model(DIGITS))).all()


def test_defaults_are_the_published_ones() -> None:
    assert "steps=2, step_size=0.15" in repr(AntiAdversaryDefense(tiny_model()))
