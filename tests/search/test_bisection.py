"""Bisection finds the smallest feasible k in few trials, and looks beside it."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igd_ray.search import Bisection, ClassBisections


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
    assert len(asked) <= math.ceil(math.log2(width)) + 3
    assert len(set(asked)) == len(asked)
    assert all(1 <= k <= width for k in asked)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_where_the_curve_wavers_the_best_holds_and_its_neighbours_were_looked_at(curve: list[bool]) -> None:
    best, asked = run(len(curve), lambda k: curve[k - 1])
    assert len(set(asked)) == len(asked)
    if best is None:
        assert not any(curve[k - 1] for k in asked)
        assert asked == [k for k in (len(curve), len(curve) - 1) if k]
        return
    assert best == min(k for k in asked if curve[k - 1])
    below = [k for k in (best - 1, best - 2) if k >= 1]
    assert set(below) <= set(asked)
    assert not any(curve[k - 1] for k in below)
    assert best == len(curve) or best + 1 in asked


@given(st.integers(8, 512), st.data())
def test_the_neighbourhood_is_right_where_an_accuracy_curve_is_noisy(width: int, data) -> None:
    threshold = data.draw(st.integers(1, width))
    seed = data.draw(st.integers(0, 2**32 - 1))
    noise = random.Random(seed)
    # Accuracy rises by a point each k up to the threshold and stays; noise of a point wavers on it; 1.5 may be lost.
    curve = [min(k - threshold, 0) + noise.uniform(-1, 1) for k in range(1, width + 1)]
    best, asked = run(width, lambda k: curve[k - 1] >= -1.5)
    assert best is not None  # from the threshold on every k holds, and more than 2.5 below it none does
    assert threshold - 2.5 <= best <= threshold
    # Only threshold − 2 can be found to hold behind a k that does not; bisection goes on below it, once.
    assert len(asked) <= 2 * (math.ceil(math.log2(width)) + 3)


def test_none_feasible() -> None:
    assert run(64, lambda k: False) == (None, [64, 63])
    assert run(1, lambda k: False) == (None, [1])


def test_a_dip_at_the_largest_k_hides_nothing() -> None:
    assert run(64, lambda k: 5 <= k < 64)[0] == 5


def test_a_dip_below_the_best_is_looked_across() -> None:
    # Bisection ends at 6 with 5 failing; 4 holds, and so does 3 below it.
    best, asked = run(8, lambda k: k >= 3 and k != 5)
    assert (best, 4 in asked) == (3, True)


def test_all_feasible() -> None:
    assert run(64, lambda k: True)[0] == 1
    assert run(1, lambda k: True) == (1, [1])


def test_by_hand() -> None:
    assert run(8, lambda k: k >= 3) == (3, [8, 4, 2, 3, 1])


def test_answers_known_before_are_not_asked_for_again() -> None:
    bisection = Bisection(8)
    for k, feasible in ((8, True), (4, True), (2, False)):
        bisection.tell(k, feasible)
    assert bisection.next_k() == 3
    assert bisection.next_k() == 3  # asking changes nothing
    bisection.tell(3, False)
    assert [bisection.next_k(), bisection.best] == [5, 4]  # the neighbour above
    bisection.tell(5, True)
    assert bisection.next_k() is None


@pytest.mark.parametrize("width", [1, 2, 3])
def test_smallest_layers(width: int) -> None:
    for threshold in range(1, width + 1):
        assert run(width, lambda k, threshold=threshold: k >= threshold)[0] == threshold


def run_classes(width: int, classes: int, feasible) -> tuple[tuple[int, ...] | None, int]:
    """Let the bisections of all classes ask until they stop; return what holds for all, and how many trials it took."""
    bisections = ClassBisections(width, classes)
    held: tuple[int, ...] | None = None
    trials = 0
    while (ks := bisections.next_k()) is not None:
        trials += 1
        answers = feasible(ks)
        bisections.tell(ks, answers)
        held = ks if all(answers) else held
        assert trials <= (width + 1) * (classes + 1), "the bisections do not end"
    return held, trials


@settings(deadline=None)  # many trials, on a machine that may be busy
@given(st.integers(2, 300), st.data())
def test_each_class_finds_its_own_threshold_side_by_side(width: int, data) -> None:
    thresholds = data.draw(st.lists(st.integers(1, width), min_size=1, max_size=12))
    held, trials = run_classes(width, len(thresholds), lambda ks: [k >= t for k, t in zip(ks, thresholds, strict=True)])
    assert held == tuple(thresholds)
    # All classes share trials; the last one tries what they found together.
    assert trials <= math.ceil(math.log2(width)) + 4


@settings(deadline=None)
@given(st.integers(2, 40), st.data())
def test_what_is_found_for_the_classes_holds_together(width: int, data) -> None:
    """Even where a class holds only if the others keep enough."""
    needs = data.draw(st.lists(st.tuples(st.integers(1, width), st.integers(1, width)), min_size=2, max_size=5))

    def feasible(ks: tuple[int, ...]) -> list[bool]:
        others = [max(k for place, k in enumerate(ks) if place != own) for own in range(len(ks))]
        return [k >= own and other >= least for k, other, (own, least) in zip(ks, others, needs, strict=True)]

    held, _ = run_classes(width, len(needs), feasible)
    assert held is not None  # all neurons hold for all
    assert all(feasible(held))
