"""BPDA's backward pass, by hand: the module's answer, and the base model's gradient at what the module gave it."""

import pytest
import torch
from torch import Tensor, nn

from igd_ray.errors import InputError
from igd_ray.models.anatomy.stand_in import stand_in_logits


class Squares(nn.Module):
    """Logits (x_1², 3·x_2) of images of two pixels: the gradient of their sum is (2·x_1, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1)
        return torch.stack([pixels[:, 0] ** 2, 3 * pixels[:, 1]], dim=1)


class Around(nn.Module):
    """A base model on images that `change` changes."""

    def __init__(self, model: nn.Module, change) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.change(x))


IMAGES = torch.tensor([[0.2, 0.4], [0.6, 0.9]]).view(2, 1, 1, 2)


def gradient(module: nn.Module, model: nn.Module) -> tuple[Tensor, Tensor]:
    x = IMAGES.clone().requires_grad_()
    logits = stand_in_logits(module, model, x)
    return logits.detach(), torch.autograd.grad(logits.sum(), [x])[0].flatten(1)


def test_the_gradient_is_the_base_model_s_at_the_image_it_was_given() -> None:
    model = Squares()
    logits, found = gradient(Around(model, torch.round), model)
    # The images are rounded to (0, 0) and (1, 1).
    assert torch.equal(logits, torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    assert torch.equal(found, torch.tensor([[0.0, 3.0], [2.0, 3.0]]))


def test_gradients_that_something_stops_flow_all_the_same() -> None:
    model = Squares()

    def stopped(x: Tensor) -> Tensor:
        with torch.no_grad():
            return (x + 0.1).detach()

    _, found = gradient(Around(model, stopped), model)
    torch.testing.assert_close(found, torch.tensor([[0.6, 3.0], [1.4, 3.0]]))


def test_draws_that_follow_each_other_are_averaged() -> None:
    model = Squares()

    class Averaged(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(torch.cat([x.round(), x.ceil()])).view(2, 2, 2).mean(dim=0)

    logits, found = gradient(Averaged(), model)
    assert torch.equal(logits, torch.tensor([[0.5, 1.5], [1.0, 3.0]]))
    assert torch.equal(found, torch.tensor([[1.0, 3.0], [2.0, 3.0]]))


def test_a_module_may_bring_a_backward_pass_of_its_own() -> None:
    model = Squares()
    module = Around(model, torch.round)
    module.backward_surrogate = lambda x: 5 * x.flatten(1)  # type: ignore[assignment]
    logits, found = gradient(module, model)
    assert torch.equal(logits, torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    assert torch.equal(found, torch.full((2, 2), 5.0))


def test_without_a_call_of_the_model_there_is_nothing_to_follow() -> None:
    with pytest.raises(InputError, match=r"define backward_surrogate\(self, x\)"):
        gradient(Around(Squares(), torch.round), Squares())
