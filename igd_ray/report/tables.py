"""Tables: rows of values, columns that say how a value is shown, and how rows are printed on the terminal."""

import itertools
import os
import sys
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa
    import rich.table
    from rich.console import Console

    from igd_ray.arrow import Answer

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


# What an attack cost.
COSTS = (
    Column("forwards", "Forward passes", "count"),
    Column("backwards", "Backward passes", "count"),
    Column("queries", "Queries", "count"),
    Column("seconds", "Seconds", "number"),
)

# How a defense with masks is set.
SETTING = (
    Column("layer", "Layer"),
    Column("k", "k", "number"),
    Column("sigma", "σ", "pixels"),
    Column("tau", "τ", "number"),
    Column("draws", "Draws", "number"),
)


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


def print_table(
    rows: "pa.Table | Answer | Sequence[Mapping[str, object]]",
    *,
    title: str | None = None,
    console: "Console | None" = None,
) -> None:
    """Print `rows`, numbers to the right.

    Args:
        rows: an Arrow table, an answer of the catalog, or mappings with equal keys.
        title: printed above.
        console: where to print; standard output by default.
    """
    names, columns = _columns(rows)
    right = [_is_number(column) for column in columns]
    if console is None and (sys.stdout.isatty() or "FORCE_COLOR" in os.environ):
        # Imported here: what goes into a pipe need not wait for it.
        from rich.console import Console

        console = Console()
    if console is not None and console.is_terminal:
        console.print(_coloured(names, columns, right, title))
        return
    file = sys.stdout if console is None else console.file
    for line in _plain(names, columns, right, title):
        # Written past rich, which would break long lines.
        file.write(line + "\n")


def table_text(rows: Sequence[Mapping[str, object]], *, title: str | None = None) -> str:
    """Return `rows`, mappings with equal keys, as `print_table` prints them into a file."""
    names, columns = _columns(rows)
    return "\n".join(_plain(names, columns, [_is_number(column) for column in columns], title))


def _columns(
    rows: "pa.Table | Answer | Sequence[Mapping[str, object]]",
) -> tuple[list[str], list[list[object]]]:
    if isinstance(rows, Sequence):
        names = list(rows[0]) if rows else []
        return names, [[row[name] for row in rows] for name in names]
    from igd_ray.arrow import Answer, answer_of

    answer = rows if isinstance(rows, Answer) else answer_of(rows)
    return answer.names, [[row[number] for row in answer.rows] for number in range(len(answer.names))]


def _is_number(column: Sequence[object]) -> bool:
    known = [value for value in column if value is not None]
    return bool(known) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)


def shown(value: object) -> str:
    """Return `value` as text, NULL as such, in which no control character can command the terminal."""
    if value is None:
        return "NULL"
    text = number(value) if isinstance(value, float) else str(value)
    return "".join(
        character if character == "\n" or unicodedata.category(character)[0] != "C" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def _coloured(
    names: Sequence[str], columns: Sequence[Sequence[object]], right: Sequence[bool], title: str | None
) -> "rich.table.Table":
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,  # nine attacks fit into 120 columns
    )
    for name, is_right in zip(names, right, strict=True):
        table.add_column(Text(name, "bold"), justify="right" if is_right else "left", overflow="fold")
    for row in zip(*columns, strict=True):
        styles = [
            "dim" if value is None else "cyan" if is_right else "" for value, is_right in zip(row, right, strict=True)
        ]
        table.add_row(*(Text(shown(value), style) for value, style in zip(row, styles, strict=True)))
    return table


def _plain(
    names: Sequence[str], columns: Sequence[Sequence[object]], right: Sequence[bool], title: str | None
) -> list[str]:
    cells = [[name, *(shown(value) for value in column)] for name, column in zip(names, columns, strict=True)]
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in cells]
    lines = [] if title is None else [title]
    for row in zip(*cells, strict=True):
        for parts in itertools.zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            padded = (
                part.rjust(width) if is_right else part.ljust(width)
                for part, width, is_right in zip(parts, widths, right, strict=True)
            )
            lines.append("  ".join(padded).rstrip())
    return lines
