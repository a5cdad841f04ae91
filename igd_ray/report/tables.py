"""Tables as data: rows of values, and columns that say how a value is shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Row = Mapping[str, Any]

DASH = "–"


class Share(NamedTuple):
    """A fraction with its 95 % interval or a remark `why`; if there is none, why, and what stands `instead`."""

    value: float | None
    low: float | None = None
    high: float | None = None
    why: str = ""
    instead: str = DASH


class Verdict(NamedTuple):
    """What may be claimed: ``gain``, ``loss`` or ``undecided``, or why nothing may; and a remark `why`."""

    claim: str
    why: str = ""


class Cell(NamedTuple):
    """What is shown of a value: the text, a smaller line below it, and a number to sort by if it is one."""

    text: str
    detail: str = ""
    order: float | None = None


@dataclass(frozen=True)
class Column:
    """The column of `name`, shown under `title` in the way of `kind`, one of `FORMATS`."""

    name: str
    title: str
    kind: str = "text"

    @property
    def is_number(self) -> bool:
        """Whether it is aligned to the right."""
        return self.kind not in ("text", "prose", "verdict")


@dataclass(frozen=True)
class Table:
    """Rows under columns."""

    columns: Sequence[Column]
    rows: Sequence[Row]

    def cells(self, row: Row) -> list[tuple[Column, Cell]]:
        """Return the columns with what each shows of `row`."""
        return [(column, FORMATS[column.kind](row[column.name])) for column in self.columns]


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage.

    >>> percent(0.5625)
    '56.2 %'
    """
    return DASH if fraction is None else f"{100 * fraction:.1f} %"


def points(difference: float | None) -> str:
    """Return the difference of two fractions in percentage points, with its sign.

    >>> points(-0.031)
    '−3.1'
    """
    if difference is None:
        return DASH
    return f"{100 * difference:+.1f}".replace("-", "−")


def number(value: float | None) -> str:
    """Return a number with at most four decimals; tiny and huge ones in scientific notation.

    >>> number(3.0), number(0.25), number(1e-9)
    ('3', '0.25', '1e-09')
    """
    if value is None:
        return DASH
    if isinstance(value, int):
        return str(value)
    if value == value and (value == 0 or 1e-3 <= abs(value) < 1e9):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return f"{value:.4g}"


def pixel_fraction(value: float | None) -> str:
    """Return a perturbation size in 255ths where it is a whole number of them.

    >>> pixel_fraction(8 / 255), pixel_fraction(0.1)
    ('8/255', '0.1')
    """
    if value is None:
        return DASH
    steps = value * 255
    if round(steps) and abs(steps - round(steps)) < 1e-6:
        return f"{round(steps)}/255"
    return number(value)


def _share(share: Share) -> Cell:
    if share.value is None:
        return Cell(share.instead, share.why)
    if share.low is None or share.high is None:
        return Cell(percent(share.value), share.why, share.value)
    return Cell(percent(share.value), f"{100 * share.low:.1f}{DASH}{100 * share.high:.1f}", share.value)


# What tells verdicts apart without colours.
_SIGNS = {"gain": "▲ ", "loss": "▼ ", "undecided": "○ "}


def signed(claim: str) -> str:
    """Return a verdict behind its sign.

    >>> signed("loss")
    '▼ loss'
    """
    return _SIGNS.get(claim, "") + claim


FORMATS: Mapping[str, Callable[[Any], Cell]] = {
    "text": lambda value: Cell(DASH if value is None else str(value)),
    "prose": lambda value: Cell(str(value)),  # needs room for several words in a line
    "number": lambda value: Cell(number(value), order=value),
    "count": lambda value: Cell(DASH if value is None else f"{value:,}".replace(",", " "), order=value),
    "percent": lambda value: Cell(percent(value), order=value),
    "points": lambda value: Cell(points(value), order=value),
    "pixels": lambda value: Cell(pixel_fraction(value), order=value),
    "share": _share,
    "verdict": lambda verdict: Cell(signed(verdict.claim), verdict.why),
}
