"""Tables on the terminal and in a pipe."""

import io

import pyarrow as pa
import pytest
from rich.console import Console

from igd_ray.report.tables import print_table

ROWS = [{"defense": "none", "n": 64, "robust": 0.5}, {"defense": "loir-50", "n": 8, "robust": None}]


def _printed(rows: object, *, terminal: bool, **options: str) -> str:
    file = io.StringIO()
    print_table(rows, console=Console(file=file, force_terminal=terminal, width=60), **options)  # type: ignore[arg-type]
    return file.getvalue()


def test_piped_it_is_aligned_plain_text() -> None:
    expected = "Title\ndefense   n  robust\nnone     64     0.5\nloir-50   8    NULL\n"
    assert _printed(ROWS, terminal=False, title="Title") == expected
    assert _printed(pa.Table.from_pylist(ROWS), terminal=False, title="Title") == expected


def test_on_a_terminal_it_is_coloured() -> None:
    printed = _printed(ROWS, terminal=True, title="Title")
    assert "\x1b[36m" in printed
    assert "loir-50" in printed


def test_long_lines_are_not_broken_in_a_pipe() -> None:
    assert _printed([{"message": "x" * 300}], terminal=False).splitlines()[1] == "x" * 300


def test_several_lines_in_a_cell_stay_aligned() -> None:
    printed = _printed([{"a": "one\ntwo", "b": 3}], terminal=False)
    assert printed == "a    b\none  3\ntwo\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_text_neither_commands_the_terminal_nor_is_markup(terminal: bool) -> None:
    printed = _printed([{"[red]name": "\x1b]0;owned\x07[bold]x[/bold]"}], terminal=terminal)
    assert "\x1b]0" not in printed
    assert "\x07" not in printed
    assert "[bold]x[/bold]" in printed
    assert "[red]name" in printed


def test_truth_values_are_no_numbers_and_no_rows_are_fine() -> None:
    assert _printed([{"chosen": True}], terminal=False) == "chosen\nTrue\n"
    assert _printed([], terminal=False) == ""
    assert _printed([], terminal=True).strip() == ""
    assert _printed(pa.table({"a": pa.array([], pa.int32())}), terminal=False) == "a\n"
