"""The look at a base model finds what would spoil every row of an evaluation."""

import pytest
import torch
from torch import Tensor, nn

from igd_ray.contracts import look_at_model
from igd_ray.data import load_images
from igd_ray.models import load_model
from igd_ray.properties import Property

DIGITS = load_images("digits", n=32)


class Around(nn.Module):
    """The demo's model, with something done to its logits."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.model, self.how = load_model("demo"), how

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        if self.how == "probabilities":
            return logits.softmax(dim=1)
        if self.how == "random":
            return logits + torch.randn(logits.shape)
        if self.how == "batch":
            return logits - logits.mean(dim=0) * len(x)
        if self.how == "detached":
            return logits.detach()
        return logits.roll(1, dims=1) if self.how == "classes" else logits


def look(model: nn.Module, layer: str = "penultimate") -> dict[str, Property]:
    return {each.name: each for each in look_at_model(model, DIGITS, layer=layer)}


def test_a_good_model_passes() -> None:
    found = look(load_model("demo"))
    assert list(found) == ["logits", "accuracy", "randomness", "batch", "gradient", "layer"]
    assert {each.result for each in found.values()} == {"ok"}
    assert found["accuracy"].found == "1 on 32 images"
    assert found["layer"].found == "penultimate: 64 neurons"


@pytest.mark.parametrize(
    ("how", "name", "said"),
    [
        ("random", "randomness", "random: two calls differ by"),
        ("batch", "batch", "logits of an image alone differ by"),
        ("detached", "gradient", "none: something in it stops gradients"),
        ("classes", "accuracy", "little more than chance"),
    ],
)
def test_what_has_to_be_minded_is_a_warning(how: str, name: str, said: str) -> None:
    found = look(Around(how).eval())[name]
    assert found.result == "warning"
    assert said in found.found


def test_probabilities_are_an_error() -> None:
    assert look(Around("probabilities").eval())["logits"].result == "error"


def test_a_layer_that_is_not_there_leaves_masks_out() -> None:
    layer = look(load_model("demo"), "layer9")["layer"]
    assert layer.result == "warning"
    assert "no masks and rankings" in layer.found
