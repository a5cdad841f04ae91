"""How values are shown, and in which order attacks stand."""

import doctest

import pytest

from igd_ray import statistics
from igd_ray.report import tables
from igd_ray.report.tables import Cell, Column, Share, Table, number, percent, pixel_fraction, points


@pytest.mark.parametrize("module", [tables, statistics])
def test_the_examples_in_the_docstrings(module) -> None:  # type: ignore[no-untyped-def]
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_nothing_known_is_a_dash_and_never_a_zero() -> None:
    assert percent(None) == points(None) == number(None) == pixel_fraction(None) == "–"
    assert percent(0.0) == "0.0 %"
    table = Table([Column("a", "A", "share"), Column("b", "B", "count"), Column("c", "C")], [])
    cells = table.cells({"a": Share(None, why="3 of 4 missing"), "b": None, "c": None})
    assert [cell for _, cell in cells] == [Cell("–", "3 of 4 missing"), Cell("–"), Cell("–")]


def test_shares_counts_and_alignment() -> None:
    table = Table([Column("a", "A", "share"), Column("b", "B", "count"), Column("c", "C")], [])
    (a, share), (_, count), (c, text) = table.cells({"a": Share(0.25, 0.046, 0.6994), "b": 1234567, "c": "x"})
    assert (share, count, text) == (
        Cell("25.0 %", "4.6–69.9", 0.25),
        Cell("1 234 567", order=1234567),
        Cell("x"),
    )
    assert (a.is_number, c.is_number) == (True, False)


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (0.031, "0.031"), (0.0, "0"), (1.0, "255/255"), (0.5 / 255, "0.002")],
)
def test_pixel_fractions(value: float, text: str) -> None:
    assert pixel_fraction(value) == text


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "nan"), (float("inf"), "inf"), (-2.5, "-2.5"), (7, "7")])
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
