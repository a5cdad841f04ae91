"""From what a model takes and returns to what every stage expects: float32 images in, float32 logits out."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from igd_ray.errors import InputError


class OutputError(InputError):
    """The model's answer holds no output of the name or position that was asked for."""


class Adapter(nn.Module):
    """Gives `model` images of its own floating-point type, and returns one of its outputs as float32.

    Args:
        model: the model.
        dtype: the floating-point type of its parameters, in which it computes.
        output: a key, an attribute, or a position from 0, such as "logits" or "0"; None where it returns logits alone.
    """

    def __init__(self, model: nn.Module, *, dtype: torch.dtype, output: str | None) -> None:
        super().__init__()
        self.model = model
        self.dtype = dtype
        self.output = output

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float32 [B, C], of `images`, float32 [B, channels, H, W] in [0, 1].

        Raises:
            OutputError: if the model returns no such output.
        """
        answer = self.model(images.to(self.dtype))
        logits = answer if self.output is None else chosen_output(answer, self.output)
        return logits.float() if isinstance(logits, Tensor) and logits.is_floating_point() else logits


def chosen_output(answer: object, output: str) -> Tensor:
    """Return the tensor in `answer` that `output`, a key, an attribute or a position, names.

    >>> chosen_output((torch.zeros(1, 3), torch.ones(1)), "1")
    tensor([1.])

    Raises:
        OutputError: if there is none.
    """
    found: object = None
    if isinstance(answer, Mapping):
        found = answer.get(output)
    elif isinstance(answer, Sequence) and output.isdecimal():
        found = answer[int(output)] if int(output) < len(answer) else None
    elif not isinstance(answer, Tensor):
        found = getattr(answer, output, None)
    if not isinstance(found, Tensor):
        raise OutputError(f"--output {output}: the model returns {described_answer(answer)}")
    return found


def described_answer(answer: object) -> str:
    """Return what a model answered, for people.

    >>> described_answer({"logits": torch.zeros(1, 3)})
    "dict with 'logits'"
    >>> described_answer((torch.zeros(1, 3), None))
    'tuple of 2'
    """
    kind = type(answer).__name__
    if isinstance(answer, Tensor):
        return f"{str(answer.dtype).removeprefix('torch.')} {list(answer.shape)}"
    if isinstance(answer, Mapping):
        return f"{kind} with {', '.join(repr(key) for key in list(answer)[:8]) or 'nothing'}"
    return f"{kind} of {len(answer)}" if isinstance(answer, list | tuple) else kind
