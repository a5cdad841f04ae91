"""The hedge defense: by hand, and against the authors' loss with every operation left to autograd."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.data import load_images
from igd_ray.defenses import HedgeDefense
from igd_ray.models.demo import demo_model
from tests.toys.models import LinearModel, tiny_model

DIGITS = load_images("digits", n=12).images.double()


def transcription(
    model: nn.Module, x: Tensor, *, epsilon: float, steps: int, step_size: float, start: Tensor
) -> Tensor:
    """x', with a gradient through every step.

    The loss is the authors' KL divergence from the uniform distribution, which is Σ_c cross-entropy / C less a
    constant.
    """
    moved = start
    for _ in range(steps):
        logits = model(moved)
        uniform = torch.full_like(logits, 1 / logits.shape[1])
        loss = functional.kl_div(functional.log_softmax(logits, dim=1), uniform, reduction="batchmean")
        (gradient,) = torch.autograd.grad(loss, moved, retain_graph=True)
        shift = (moved + step_size * gradient.sign() - x).clamp(-epsilon, epsilon)
        moved = (x + shift).clamp(0, 1)
    return moved


# z₁ − z₂ = 2 x₁ − x₂ of three pixels.
THREE_PIXELS = [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_three_pixels_by_hand() -> None:
    # Σ_c CE(z, c) = 2·log(e^z₁ + e^z₂) − z₁ − z₂ grows with |z₁ − z₂|; its gradient is tanh(|d|/2)·sign(d)·(2, −1, 0),
    # d = 2 x₁ − x₂. x = (0.5, 0.25, 0.5): d > 0, so that x₁ rises, x₂ falls and x₃ rests.
    x = torch.tensor([0.5, 0.25, 0.5]).view(1, 1, 1, 3)

    def moved(x: Tensor, **settings) -> list[float]:
        return HedgeDefense(LinearModel(THREE_PIXELS), **settings).moved(x).flatten().tolist()

    assert moved(x, epsilon=0.5, steps=2, step_size=0.125) == [0.75, 0.0, 0.5]
    assert moved(x, epsilon=0.1875, steps=2, step_size=0.125) == [0.6875, 0.0625, 0.5]  # stopped by the ball
    assert moved(x, epsilon=0.5, steps=3, step_size=0.25) == [1.0, 0.0, 0.5]  # stopped by the image range
    assert moved(1 - x, epsilon=0.5, steps=2, step_size=0.125) == [0.75, 0.5, 0.5]  # x = (0.5, 0.75, 0.5): d > 0
    # x = (0.125, 0.75, 0.5): d = −0.5, the other way
    x = torch.tensor([0.125, 0.75, 0.5]).view(1, 1, 1, 3)
    assert moved(x, epsilon=0.5, steps=2, step_size=0.125) == [0.0, 1.0, 0.5]
    defense = HedgeDefense(LinearModel(THREE_PIXELS), epsilon=0.5, steps=1, step_size=0.125)
    assert defense(x).tolist() == [[0.0, 0.875]]  # f(0, 0.875, 0.5)


@pytest.mark.parametrize(
    ("epsilon", "steps", "step_size"), [(0.15, 20, 4 / 255), (0.05, 3, 0.019), (0.1, 5, 0.07), (0.1, 1, 0.3)]
)
@pytest.mark.parametrize("random_start", [False, True])
def test_logits_and_gradient_equal_those_of_the_steps_written_out(
    epsilon: float, steps: int, step_size: float, random_start: bool
) -> None:
    model = demo_model().double().requires_grad_(False)
    x = DIGITS
    uniform = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)).double()
    defense = HedgeDefense(
        model,
        epsilon=epsilon,
        steps=steps,
        step_size=step_size,
        random_start=random_start,
        generator=torch.Generator().manual_seed(5),
    )
    leaf = x.clone().requires_grad_()
    logits = defense(leaf)
    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), leaf)

    leaf = x.clone().requires_grad_()
    start = (leaf + epsilon * (2 * uniform - 1)).clamp(0, 1) if random_start else leaf
    moved = transcription(model, leaf, epsilon=epsilon, steps=steps, step_size=step_size, start=start)
    expected = model(moved)
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-8)
    at = moved.detach().requires_grad_()
    (base,) = torch.autograd.grad(model(at)[:, 3].sum(), at)
    torch.testing.assert_close(gradient, base, rtol=1e-6, atol=1e-9)
    # The exact gradient of every step is the same, except where [0, 1] holds a pixel: there it tells attacks nothing.
    (exact,) = torch.autograd.grad(expected[:, 3].sum(), leaf)
    held = (exact == 0) & (base != 0)
    assert 0.05 < float(held.double().mean()) < 0.95
    torch.testing.assert_close(gradient[~held], exact[~held], rtol=1e-6, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(2**-10, 1, width=32),
    st.integers(0, 4),
    st.floats(0, 1, width=32),
    st.booleans(),
)
def test_the_moved_image_is_in_the_ball_and_in_range(
    seed: int, epsilon: float, steps: int, step_size: float, random_start: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (1.4 * torch.rand(3, 1, 6, 6, generator=generator) - 0.2).clamp(0, 1)
    defense = HedgeDefense(
        tiny_model(), epsilon=epsilon, steps=steps, step_size=step_size, random_start=random_start, generator=generator
    )
    moved = defense.moved(x)
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (moved - x).abs().max() <= epsilon + 1e-6
    if not random_start:
        assert (moved - x).abs().max() <= steps * step_size + 1e-6


def test_random_starts_are_uniform_in_the_ball() -> None:
    x = torch.full((1000, 1, 6, 6), 0.5)
    defense = HedgeDefense(
        tiny_model(), epsilon=0.25, steps=0, random_start=True, generator=torch.Generator().manual_seed(0)
    )
    start = (defense.moved(x) - x).flatten().sort().values
    # Of 36 000 uniform draws the empirical distribution is within 0.01 of the uniform one (Kolmogorov, p < 0.002).
    expected = torch.linspace(-0.25, 0.25, len(start))
    assert float((start - expected).abs().max()) < 0.01 * 0.5


def test_steps_raise_the_cross_entropy_to_all_classes() -> None:
    model = demo_model().double()

    def loss(x: Tensor) -> Tensor:
        logits = model(x)
        return sum(functional.cross_entropy(logits, torch.full((12,), c), reduction="none") for c in range(10))

    moved = HedgeDefense(model, epsilon=0.05, steps=5, step_size=0.01).moved(DIGITS)
    assert (loss(moved) > loss(DIGITS)).all()


def test_defaults_are_the_published_ones() -> None:
    assert "epsilon=0.1, steps=20, step_size=0.0156863, random_start=False" in repr(
        HedgeDefense(tiny_model(), epsilon=0.1)
    )
