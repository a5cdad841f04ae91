"""Verdicts come from fresh evaluations that anyone can repeat."""

import pytest
import torch
from torch import Tensor, nn

from igd_ray.errors import IgdError
from igd_ray.threat import Verdict, judge


class NoiseOnly(nn.Module):
    """Logits that are nothing but noise of a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        return torch.randn(len(x), 10, generator=self.generator)


def test_broken_is_another_class_than_the_label() -> None:
    verdict = Verdict(torch.tensor([[0, 1, 2], [0, 2, 2]]))
    assert verdict.broken(torch.tensor([0, 1, 1])).tolist() == [[False, False, True], [False, True, True]]


def test_the_verdict_depends_on_the_seed_and_not_on_what_the_attack_drew_before() -> None:
    generator = torch.Generator().manual_seed(5)
    points = torch.zeros(50, 1, 2, 2)
    first = judge(NoiseOnly(generator), points, generator, seed=7, draws=3).predictions
    torch.randn(1000, generator=generator)
    assert torch.equal(judge(NoiseOnly(generator), points, generator, seed=7, draws=3).predictions, first)
    assert not torch.equal(judge(NoiseOnly(generator), points, generator, seed=8, draws=3).predictions, first)


def test_every_draw_has_noise_of_its_own() -> None:
    generator = torch.Generator()
    predictions = judge(NoiseOnly(generator), torch.zeros(50, 1, 2, 2), generator, seed=7, draws=3).predictions
    assert predictions.shape == (3, 50)
    assert predictions.dtype == torch.int64
    assert not torch.equal(predictions[0], predictions[1])


def test_one_draw_is_one_pass_without_gradients() -> None:
    calls = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(torch.is_grad_enabled())
            return x.flatten(1)

    points = torch.tensor([[[[0.1, 0.9]]], [[[0.9, 0.1]]]])
    assert judge(Watched(), points, torch.Generator(), seed=0).predictions.tolist() == [[1, 0]]
    assert calls == [False]


def test_nan_logits_are_an_error_never_class_zero() -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 3), float("nan"))

    with pytest.raises(IgdError, match="NaN or infinite logits for 2 of 2 images"):
        judge(Broken(), torch.zeros(2, 1, 4, 4), torch.Generator(), seed=0)
