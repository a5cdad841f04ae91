"""What the figure of robust accuracies shows, apart from the drawing, so that a run's tables do not wait for it."""

from collections.abc import Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """What is drawn of one defense in the row of an attack, as fractions.

    Attributes:
        value: the robust accuracy; None where it is not known.
        low, high: its interval; without a value, between what it lies if that is known.
        note: what stands there without a value.
    """

    value: float | None
    low: float | None
    high: float | None
    note: str = ""


class Panel(NamedTuple):
    """One defense: its label, and a point for each row."""

    defense: str
    points: Sequence[Point]
