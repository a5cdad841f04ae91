"""Tables on the terminal: coloured there, plain aligned text where the output is piped."""

import itertools
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from igd_ray.report.tables import number

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console
    from rich.table import Table

    from igd_ray.answers import Answer


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
    from igd_ray.answers import Answer, answer_of

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
) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
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
