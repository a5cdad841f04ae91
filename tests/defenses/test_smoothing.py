"""Smoothing without masks: the mean over given noise, and the guided defense's own first pass."""

import pytest
import torch

from igd_ray.defenses import InterpretabilityGuidedDefense, SmoothingOnly
from igd_ray.errors import InputError
from tests.toys.models import tiny_images, tiny_model

IMAGES = tiny_images()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("draws", [1, 2, 5])
def test_logits_are_the_mean_over_the_noise_draws(draws: int) -> None:
    model = tiny_model().double()
    noise = torch.randn(draws, *IMAGES.shape, generator=seeded(7)).double()
    defense = SmoothingOnly(model, sigma=0.2, draws=draws, generator=seeded())
    expected = sum(model(IMAGES + 0.2 * one) for one in noise) / draws
    torch.testing.assert_close(defense(IMAGES.double(), noise=noise), expected, rtol=1e-12, atol=1e-12)


def test_a_seed_gives_the_noise_of_the_guided_defense_s_first_pass() -> None:
    settings = {"sigma": 0.2, "draws": 3}
    smoothing = SmoothingOnly(tiny_model(), **settings, generator=seeded())
    guided = InterpretabilityGuidedDefense(tiny_model(), torch.ones(5, 32), **settings, generator=seeded())
    assert torch.equal(smoothing(IMAGES), guided.first_logits(IMAGES))


def test_many_draws_approach_the_expectation() -> None:
    # Of f(x) = (sum of pixels)², with n standard normal in 36 pixels: E f(x + σn) = f(x) + 36 σ².
    class Square(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1).sum(dim=1, keepdim=True) ** 2

    x = torch.full((1, 1, 6, 6), 1 / 36)
    mean = float(SmoothingOnly(Square(), sigma=0.5, draws=40_000, generator=seeded())(x))
    # With s = 1 + 3g: s² has variance 4·9 + 2·81 = 198, so that one standard error is 0.07.
    assert mean == pytest.approx(1 + 36 * 0.25, abs=0.28)


def test_noise_of_another_shape_is_refused() -> None:
    defense = SmoothingOnly(tiny_model(), sigma=0.2, draws=2, generator=seeded())
    with pytest.raises(InputError, match=r"noise must be \[draws, \*x.shape\] = \[2, 6, 1, 6, 6\], not \[6, 1, 6, 6\]"):
        defense(IMAGES, noise=torch.zeros(6, 1, 6, 6))


def test_shown_settings() -> None:
    assert "sigma=0.2, draws=3" in repr(SmoothingOnly(tiny_model(), sigma=0.2, draws=3, generator=seeded()))
