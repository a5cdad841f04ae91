"""The counter between attack and target changes nothing but the memory layout that attacks stumble over."""

import pytest
import torch
from torch import Tensor, nn

from igd_ray.attacks.counting import CountedTarget
from igd_ray.errors import InputError


def gradient(target: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    points = images.clone().requires_grad_()
    logits = target(points)
    (result,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), [points])
    return logits.detach(), result


@pytest.mark.parametrize("strides", [(64, 64, 8, 1), (64, 1, 8, 1)])
def test_logits_and_gradients_are_the_target_s_own_bit_by_bit(
    model: nn.Module, digits: tuple[Tensor, Tensor], strides: tuple[int, ...]
) -> None:
    images = digits[0].flatten().as_strided(digits[0].shape, strides)
    plain, counted = gradient(model, images), gradient(CountedTarget(model), images)
    assert torch.equal(plain[0], counted[0])
    assert torch.equal(plain[1], counted[1])


class ChannelsLast(nn.Module):
    """Hands gradients back in the layout it computes in."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.is_contiguous()
        return (images.permute(0, 2, 3, 1) * torch.arange(1.0, 4)).mean(dim=(1, 2))


def test_a_channels_last_model_gets_and_gives_contiguous_tensors() -> None:
    images = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    _, result = gradient(CountedTarget(ChannelsLast()), images)
    assert result.is_contiguous()
    assert torch.equal(result, gradient(ChannelsLast(), images.contiguous())[1])


def test_counts_are_images_and_not_calls(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    target = CountedTarget(model)
    with torch.no_grad():
        target(digits[0][:5])
    assert (target.queries, target.forwards, target.backwards) == (5, 5, 0)
    gradient(target, digits[0][:3])
    assert (target.queries, target.forwards, target.backwards) == (8, 8, 3)
    # A forward pass whose gradient nobody asks for is no backward pass.
    target(digits[0][:2].clone().requires_grad_())
    assert (target.queries, target.forwards, target.backwards) == (10, 10, 3)


@pytest.mark.parametrize(
    ("stated", "no_gradient", "gradient_on_top"),
    [
        ({}, (4, 0), 4),
        ({"forward_passes": 3}, (12, 0), 12),
        ({"forward_passes": 3, "backward_passes": 1}, (12, 0), 4),
        ({"forward_passes": 3, "inner_backward_passes": 2, "backward_passes": 1}, (12, 8), 4),
        ({"forward_passes": 3, "inner_backward_passes": 2}, (12, 8), 12),
    ],
)
def test_a_target_says_how_many_passes_a_query_and_a_gradient_cost(
    stated: dict[str, int], no_gradient: tuple[int, int], gradient_on_top: int
) -> None:
    # Four images: passes of each are stated for one.
    module, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(4, 1, 2, 2)
    for name, passes in stated.items():
        setattr(module, name, passes)
    target = CountedTarget(module)
    with torch.no_grad():
        target(images)
    assert (target.queries, target.forwards, target.backwards) == (4, *no_gradient)
    gradient(target, images)
    assert target.queries == 8
    assert target.forwards == 2 * no_gradient[0]
    assert target.backwards == 2 * no_gradient[1] + gradient_on_top


@pytest.mark.parametrize("requires_grad", [False, True])
def test_an_answer_that_is_no_logits_is_refused_whoever_asks(requires_grad: bool) -> None:
    images = torch.rand(3, 1, 8, 8, requires_grad=requires_grad)
    for module, given in ((nn.Flatten(0), r"torch.float32 \[192\]"), (nn.LSTM(8, 2), "a tuple")):
        target = CountedTarget(nn.Sequential(nn.Flatten(0, 2), module))
        with pytest.raises(InputError, match=rf"float logits \[3, classes\].*Sequential returned {given};"):
            target(images)


def test_a_target_that_stops_gradients_has_the_gradient_zero() -> None:
    module, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), torch.rand(5, 1, 2, 2, requires_grad=True)

    class Stopping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return module(x.detach().round()).detach()

    logits = CountedTarget(Stopping())(images)
    assert torch.equal(logits, module(images.round()))
    (gradient,) = torch.autograd.grad(logits.sum(), [images])
    assert torch.equal(gradient, torch.zeros(5, 1, 2, 2))
    with torch.no_grad():
        assert not CountedTarget(Stopping())(images).requires_grad


def test_the_number_of_classes_costs_one_image_once(model: nn.Module, digits: tuple[Tensor, Tensor]) -> None:
    target = CountedTarget(model)
    assert [target.num_classes(digits[0]) for _ in range(3)] == [10, 10, 10]
    assert target.queries == 1


def test_the_target_is_not_taken_over(model: nn.Module) -> None:
    target = CountedTarget(model)
    assert list(target.modules()) == [target]
    target.train()
    assert not model.training
