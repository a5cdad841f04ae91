"""The paired test, against scipy and by hand."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igd_ray.statistics import Comparison, images_needed, mcnemar, paired_interval


@settings(deadline=None)  # the first call imports scipy
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-9)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == 0.0625  # 2 / 2⁵
    assert mcnemar(6, 0) == mcnemar(0, 6) == 0.03125
    assert mcnemar(7, 1) == 0.0703125  # 2 · (1 + 8) / 2⁸
    assert mcnemar(8, 1) == 0.0390625  # 2 · (1 + 9) / 2⁹


def test_images_needed_by_hand() -> None:
    # One image in four is gained and none lost: 16·(1.95996/2 + 0.84162·√0.1875)² = 28.92, corrected 36.49.
    assert images_needed(5, 0, 20) == images_needed(0, 5, 20) == 37
    assert images_needed(3, 3, 40) is None
    assert images_needed(100_001, 100_000, 1_000_000) is None


@pytest.mark.parametrize(("gain", "loss"), [(0.06, 0.02), (0.2, 0.1), (0.05, 0.12), (0.3, 0.22)])
def test_images_needed_have_the_power_that_they_claim(gain: float, loss: float) -> None:
    """McNemar's exact test decides in four of five draws of so many images, and seldom enough on fewer."""

    def power(images: int) -> float:
        chance, decided = random.Random(images), 0
        for _ in range(600):
            draws = [chance.random() for _ in range(images)]
            decided += mcnemar(sum(draw < gain for draw in draws), sum(draw >= 1 - loss for draw in draws)) < 0.05
        return decided / 600

    needed = images_needed(round(1000 * gain), round(1000 * loss), 1000)
    assert needed is not None
    margin = 3 * (0.8 * 0.2 / 600) ** 0.5
    assert power(needed) > 0.8 - margin
    assert power(round(0.75 * needed)) < 0.8 - margin


@pytest.mark.parametrize(
    ("gained", "lost", "verdict", "p", "outlook"),
    [
        (6, 0, "gain", "0.031", "about 63 images"),
        (0, 6, "loss", "0.031", "about 63 images"),
        (4, 0, "undecided", "0.12", "about 96 images would decide it at 80 % power"),
        (3, 3, "undecided", "1", "no number of images in reach"),
    ],
)
def test_a_comparison_claims_no_more_than_the_test(gained: int, lost: int, verdict: str, p: str, outlook: str) -> None:
    comparison = Comparison(40, gained, lost)
    assert comparison.verdict == verdict
    assert comparison.counts == f"{gained} images gained, {lost} lost, p = {p}"
    assert comparison.outlook.startswith(outlook)


def test_paired_interval_by_hand() -> None:
    # 10 gained and 2 lost of 98: half an image in each cell gives 10.5 and 2.5 of 100, a difference of 8 / 100 with
    # the variance (13 − 64 / 100) / 100².
    low, high = paired_interval(10, 2, 98)
    assert (low + high) / 2 == pytest.approx(0.08)
    assert (high - low) / 2 == pytest.approx(1.959964 * 12.36**0.5 / 100, rel=1e-6)


@pytest.mark.parametrize(("gain", "loss"), [(0.0, 0.01), (0.02, 0.02), (0.05, 0.01), (0.1, 0.3), (0.5, 0.5)])
def test_paired_interval_covers_the_truth_as_often_as_it_says(gain: float, loss: float) -> None:
    images, chance, covered = 150, random.Random(0), 0
    for _ in range(2000):
        draws = [chance.random() for _ in range(images)]
        gained, lost = sum(draw < gain for draw in draws), sum(draw >= 1 - loss for draw in draws)
        low, high = paired_interval(gained, lost, images)
        covered += low <= gain - loss <= high
    # 95 % within four standard errors of the simulation; small shares are covered more often.
    assert covered / 2000 > 0.95 - 4 * (0.95 * 0.05 / 2000) ** 0.5


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_paired_interval_is_the_other_way_round_for_the_other_defense(case: tuple[int, int, int]) -> None:
    images, gained, lost = case
    lost = min(lost, images - gained)
    low, high = paired_interval(gained, lost, images)
    assert -1 <= low < high <= 1
    assert paired_interval(lost, gained, images) == pytest.approx((-high, -low))
