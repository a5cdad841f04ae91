"""A module beside a user's file."""

from torch import Tensor


def powered(values: Tensor, power: float) -> Tensor:
    """`values` to the power of `power`."""
    return values**power
