"""Confidence masking: by hand, against the rule written out, and between no masks and full ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from igd_ray.defenses import ConfidenceMaskingDefense, InterpretabilityGuidedDefense, class_masks
from tests.toys.models import LinearModel, tiny_images, tiny_model

IMAGES = tiny_images().double()
MASKS = class_masks(torch.rand(5, 32, generator=torch.Generator().manual_seed(2)), 12)


def defended(threshold: float, **settings) -> ConfidenceMaskingDefense:
    settings = {"sigma": 0, "tau": 0.5} | settings
    model, generator = tiny_model().double(), torch.Generator().manual_seed(0)
    return ConfidenceMaskingDefense(model, MASKS, threshold=threshold, generator=generator, **settings)


def transcription(x: Tensor, threshold: float, tau: float, noise: Tensor | None = None, sigma: float = 0.0) -> Tensor:
    """The rule with one branch for every case, image by image."""
    model = tiny_model().double()
    logits = []
    for index, image in enumerate(x[:, None]):
        if noise is None:
            z = model(image)[0]
        else:
            z = torch.stack([model(image + sigma * one[index])[0] for one in noise]).mean(dim=0)
        soft_labels = (z / tau - (z / tau).logsumexp(dim=0)).exp()
        confidence = max(soft_labels)
        if threshold == 1 or confidence <= threshold:
            strength = torch.tensor(0.0)
        else:
            strength = (confidence - threshold) / (1 - threshold)
        mask = [(1 - strength) + strength * (soft_labels * MASKS[:, neuron]).sum() for neuron in range(32)]
        logits.append(model[-1](model[:-1](image)[0] * torch.stack(mask)))
    return torch.stack(logits)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        # ỹ = (3/4, 1/4) and M = I: ỹ M = (3/4, 1/4). a = x = (1, 0.5).
        (
            0.5,
            [2 * 7 / 8 + 5 / 16, 7 / 8 + 3 * 5 / 16],
        ),  # s = (3/4 − 1/2)/(1/2) = 1/2: mask (7/8, 5/8), a = (7/8, 5/16)
        (0.75, [2.5, 2.5]),  # s = 0 just at the threshold: W x
        (0.9, [2.5, 2.5]),
        (1.0, [2.5, 2.5]),
        (0.0, [2 * 13 / 16 + 7 / 32, 13 / 16 + 3 * 7 / 32]),  # s = 3/4: mask (13/16, 7/16), a = (13/16, 7/32)
    ],
)
def test_by_hand(threshold: float, expected: list[float]) -> None:
    x = torch.tensor([[[[1.0, 0.5]]]])
    # The first pass sees x + σ n = (1.5, 0.5): z = (3.5, 3). τ = 0.5 / log 3 makes ỹ = (3/4, 1/4).
    defense = ConfidenceMaskingDefense(
        LinearModel([[2.0, 1.0], [1.0, 3.0]]),
        torch.eye(2),
        sigma=0.5,
        tau=0.5 / math.log(3),
        threshold=threshold,
        generator=torch.Generator(),
    )
    assert defense(x, noise=torch.tensor([[[[1.0, 0.0]]]])).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("draws", [0, 1, 3])
def test_equals_the_rule_written_out(threshold: float, draws: int) -> None:
    noise = torch.randn(draws, *IMAGES.shape, generator=torch.Generator().manual_seed(7)).double() if draws else None
    sigma = 0.1 if draws else 0
    defense = defended(threshold, sigma=sigma, draws=max(draws, 1))
    labels = torch.arange(len(IMAGES)) % 5

    def value_and_gradient(function) -> tuple[Tensor, Tensor]:
        leaf = IMAGES.clone().requires_grad_()
        logits = function(leaf)
        return logits.detach(), torch.autograd.grad(functional.cross_entropy(logits, labels), leaf)[0]

    given_logits, given_gradient = value_and_gradient(lambda leaf: defense(leaf, noise=noise))
    logits, gradient = value_and_gradient(lambda leaf: transcription(leaf, threshold, 0.5, noise, sigma))
    torch.testing.assert_close(given_logits, logits, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(given_gradient, gradient, rtol=1e-8, atol=1e-10)


def test_the_images_are_on_both_sides_of_a_threshold() -> None:
    strength = defended(0.5).strength(defended(0.5).pseudo_labels(tiny_model().double()(IMAGES)))
    assert 0 < int((strength == 0).sum()) < len(IMAGES)


@given(st.floats(0, 1), st.floats(0.2, 1))
def test_strength_rises_from_0_at_the_threshold_to_1_at_full_confidence(threshold: float, confidence: float) -> None:
    rest = (1 - confidence) / 4
    weights = torch.tensor([[rest, rest, confidence, rest, rest]], dtype=torch.float64)
    strength = float(defended(threshold).strength(weights))
    assert 0 <= strength <= 1
    if threshold == 1 or confidence <= threshold:
        assert strength == 0
    else:
        assert strength == pytest.approx((confidence - threshold) / (1 - threshold))


def test_the_two_halves_are_the_whole_and_sure_labels_are_masked_in_full() -> None:
    defense = defended(0.3)
    halves = defense.masked_logits(IMAGES, defense.pseudo_labels(defense.first_logits(IMAGES)))
    torch.testing.assert_close(halves, defense(IMAGES))
    guided = InterpretabilityGuidedDefense(tiny_model().double(), MASKS, sigma=0)
    one_hot = functional.one_hot(torch.full((6,), 3), 5).double()
    torch.testing.assert_close(defense.masked_logits(IMAGES, one_hot), guided.masked_logits(IMAGES, one_hot))
    even = torch.full((6, 5), 0.2).double()
    torch.testing.assert_close(defense.masked_logits(IMAGES, even), tiny_model().double()(IMAGES))


def test_at_a_small_tau_it_is_the_guided_defense() -> None:
    guided = InterpretabilityGuidedDefense(tiny_model().double(), MASKS, sigma=0, tau=1e-4)
    torch.testing.assert_close(defended(0.9, tau=1e-4)(IMAGES), guided(IMAGES))


def test_shown_settings() -> None:
    assert "k=12, layer=penultimate, sigma=0, tau=0.5, draws=1, threshold=0.8" in repr(defended(0.8))
