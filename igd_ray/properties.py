"""Properties of code of the user's: what is looked at, what was found, and what that means for an evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from igd_ray.errors import InputError
from igd_ray.models.sources import contained

Result = Literal["ok", "warning", "error"]

Found = tuple[Result, str]

# The name of a property, what it means for an evaluation, and what finds out.
Check = tuple[str, str, Callable[[], Found]]

# How far rows of probabilities are off a sum of 1.
PROBABILITY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Property:
    """One property of a model, a defense, an attack or a ranking.

    Attributes:
        name: what is looked at.
        result: "error" where an evaluation would say nothing, "warning" where it has to be read with care.
        found: what was found.
        meaning: what it means for an evaluation.
    """

    name: str
    result: Result
    found: str
    meaning: str


class BrokenContractError(InputError):
    """An evaluation would say nothing: what was found."""


def found_logits(answer: Tensor) -> Found:
    """Return what is found of `answer`, float [B, C], where an evaluation expects logits.

    Raises:
        BrokenContractError: if it has NaN or infinity, or holds probabilities.
    """
    if not torch.isfinite(answer).all():
        raise BrokenContractError("its logits have NaN or infinity")
    if (answer >= 0).all() and ((answer.sum(dim=1) - 1).abs() < PROBABILITY_TOLERANCE).all():
        raise BrokenContractError("it returns probabilities, which sum to 1; return logits, before the softmax")
    return "ok", f"{answer.dtype} {list(answer.shape)}, {answer.min():.3g} to {answer.max():.3g}"


def properties_of(checks: Sequence[Check]) -> list[Property]:
    """Return what each of `checks` found, up to the first error; whatever somebody's code does wrong is one line."""
    properties = []
    for name, meaning, check in checks:
        try:
            with contained():
                result, found = check()
        except InputError as error:
            result, found = "error", str(error)
        properties.append(Property(name, result, found, meaning))
        if result == "error":
            break
    return properties
