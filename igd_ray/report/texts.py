"""Tables as text that other programs set: Markdown and LaTeX."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from igd_ray.report.tables import Table

# What Markdown or HTML would read as anything but text.
_MARKED = re.compile(r"([\\`*_{}\[\]#|~$])")

_LATEX = {
    **{character: f"\\{character}" for character in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "–": "--",
    "ε": r"$\varepsilon$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
    "○": r"$\circ$",
}


class Grid(NamedTuple):
    """A table of texts: what stands above the columns, the rows, and which columns are set to the right."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Sequence[bool]


def grid(table: Table) -> Grid:
    """Return `table` as texts, the detail of a cell in brackets behind it."""
    rows = []
    for row in table.rows:
        cells = [cell for _, cell in table.cells(row)]
        rows.append([f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in cells])
    return Grid([column.title for column in table.columns], rows, [column.is_number for column in table.columns])


def grid_of_rows(rows: Sequence[Mapping[str, object]], names: Sequence[str], show: Callable[[object], str]) -> Grid:
    """Return the columns `names` of `rows` as texts; numbers stand to the right.

    Args:
        rows: values by the names of their columns.
        names: which columns.
        show: turns a value into its text.
    """
    right = []
    for name in names:
        known = [row[name] for row in rows if row[name] is not None]
        right.append(bool(known) and all(isinstance(value, int | float) and value is not True for value in known))
    return Grid(names, [[show(row[name]) for name in names] for row in rows], right)


def markdown(text: str) -> str:
    """Return `text` so that Markdown shows it as it is, in one line.

    >>> markdown("a|b <i>*c*</i>")
    'a\\\\|b &lt;i&gt;\\\\*c\\\\*&lt;/i&gt;'
    """
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKED.sub(r"\\\1", plain)


def markdown_table(table: Grid) -> str:
    """Return a table as GitHub's Markdown, with a line break at its end."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    rules = ["---:" if right else "---" for right in table.right]
    body = [line([markdown(cell) for cell in row]) for row in table.rows]
    return line([markdown(head) for head in table.heads]) + line(rules) + "".join(body)


def latex(text: str) -> str:
    r"""Return `text` so that LaTeX sets it as it is, on one line.

    >>> latex("100 % of a_b")
    '100 \\% of a\\_b'
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def latex_table(table: Grid) -> str:
    """Return a table for LaTeX with the package booktabs, with a line break at its end."""

    def line(cells: Sequence[str]) -> str:
        return f"  {' & '.join(latex(cell) for cell in cells)} \\\\\n"

    columns = "".join("r" if right else "l" for right in table.right)
    body = "".join(line(row) for row in table.rows)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n  \\toprule\n{line(table.heads)}  \\midrule\n{body}  \\bottomrule\n"
        "\\end{tabular}\n"
    )
