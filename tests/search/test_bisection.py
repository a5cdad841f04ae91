"""Bisection finds the smallest feasible k in few trials."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igd_ray.search import Bisection


def run(width: int, feasible) -> tuple[int | None, list[int]]:
    """Let a bisection ask until it stops; return what it found and what it asked."""
    bisection = Bisection(width)
    asked = []
    while (k := bisection.next_k()) is not None:
        asked.append(k)
        bisection.tell(k, feasible(k))
        assert len(asked) <= 2 * width, "the bisection does not end"
    return bisection.best, asked


@given(st.integers(1, 5000).flatmap(lambda width: st.tuples(st.just(width), st.integers(1, width))))
def test_finds_the_threshold_of_a_monotone_curve(case: tuple[int, int]) -> None:
    width, threshold = case
    best, asked = run(width, lambda k: k >= threshold)
    assert best == threshold
    assert len(asked) <= math.ceil(math.log2(width)) + 2
    assert len(set(asked)) == len(asked)
    assert all(1 <= k <= width for k in asked)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_where_the_curve_wavers_the_best_holds_and_the_one_below_does_not(curve: list[bool]) -> None:
    best, asked = run(len(curve), lambda k: curve[k - 1])
    if not curve[-1]:
        assert best is None
        assert asked == [len(curve)]
        return
    assert best == min(k for k in asked if curve[k - 1])
    assert best == 1 or (best - 1 in asked and not curve[best - 2])


def test_none_feasible() -> None:
    assert run(64, lambda k: False) == (None, [64])


def test_all_feasible() -> None:
    assert run(64, lambda k: True)[0] == 1
    assert run(1, lambda k: True) == (1, [1])


def test_by_hand() -> None:
    assert run(8, lambda k: k >= 3) == (3, [8, 4, 2, 3])


def test_answers_known_before_are_not_asked_for_again() -> None:
    bisection = Bisection(8)
    for k, feasible in ((8, True), (4, True), (2, False)):
        bisection.tell(k, feasible)
    assert bisection.next_k() == 3
    assert bisection.next_k() == 3  # asking changes nothing
    bisection.tell(3, False)
    assert bisection.next_k() is None
    assert bisection.best == 4


@pytest.mark.parametrize("width", [1, 2, 3])
def test_smallest_layers(width: int) -> None:
    for threshold in range(1, width + 1):
        assert run(width, lambda k, threshold=threshold: k >= threshold)[0] == threshold
