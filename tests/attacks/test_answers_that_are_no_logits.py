"""What a model must answer, and what a ball must be: anything else is refused in one line before the search."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import APGD, Attack, AutoAttack, RayS, TransferAPGD
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel


class Answers(nn.Module):
    """A model whose logits are made into something else."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], object], *, after: int = 0) -> None:
        super().__init__()
        self.model, self.change, self.left = model, change, after

    def forward(self, images: Tensor) -> object:
        self.left -= 1
        logits = self.model(images)
        return self.change(logits) if self.left < 0 else logits


NO_LOGITS = [
    (lambda logits: (logits, logits), "returned a tuple"),
    (lambda logits: {"logits": logits}, "returned a dict"),
    (lambda logits: None, "returned a NoneType"),
    (lambda logits: logits.argmax(dim=1), r"returned torch.int64 \[1\]"),
    (lambda logits: logits.long(), r"returned torch.int64 \[1, 10\]"),
    (lambda logits: logits[:, 0], r"returned torch.float32 \[1\]"),
    (lambda logits: logits[:, :, None, None], r"returned torch.float32 \[1, 10, 1, 1\]"),
    (lambda logits: logits[:, :1], r"returned torch.float32 \[1, 1\]"),
    (lambda logits: logits.repeat(2, 1), r"returned torch.float32 \[2, 10\]"),
]


@pytest.mark.parametrize(("change", "what"), NO_LOGITS, ids=[what for _, what in NO_LOGITS])
@pytest.mark.parametrize("attack", [APGD(steps=2), RayS(3), TransferAPGD(steps=2), AutoAttack("rand")], ids=repr)
def test_answers_that_are_no_logits_are_refused(attack: Attack, change, what: str, model, digits, threat) -> None:
    with pytest.raises(
        InputError, match=rf"^a model must return float logits \[1, classes\], .*Answers {what}"
    ) as info:
        attack(Answers(model, change), *digits, threat=threat, generator=Generator())
    assert "\n" not in str(info.value)


def test_a_later_answer_is_checked_as_well(model, digits, threat) -> None:
    target = Answers(model, lambda logits: (logits, None), after=3)
    with pytest.raises(InputError, match=r"float logits \[12, classes\].*returned a tuple"):
        APGD(steps=4)(target, *digits, threat=threat, generator=Generator())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_logits_of_another_precision_are_logits(dtype: torch.dtype, model, digits, threat) -> None:
    result = RayS(20)(Answers(model, lambda logits: logits.to(dtype)), *digits, threat=threat, generator=Generator())
    assert result.broken.shape == (12,)


@pytest.mark.parametrize("norm", Norm)
def test_a_ball_of_radius_zero_is_refused(norm: Norm) -> None:
    with pytest.raises(InputError, match=r"eps must lie in \(0, 1\], in \[0, 1\] pixel units, not 0"):
        ThreatModel(norm, 0.0)
