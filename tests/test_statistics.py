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


def test_images_needed_is_the_least_number_found_by_trying() -> None:
    # One image in ten is gained and none lost: round(n / 10) = 6 first at n = 55.
    assert images_needed(4, 0, 40) == 55
    assert images_needed(3, 3, 40) is None
    assert images_needed(100_001, 100_000, 1_000_000) is None


@given(st.integers(1, 30), st.integers(0, 30), st.integers(60, 200))
def test_images_needed_decide(gained: int, lost: int, images: int) -> None:
    needed = images_needed(gained, lost, images)
    if needed is not None:
        assert mcnemar(round(gained * needed / images), round(lost * needed / images)) < 0.05


@pytest.mark.parametrize(
    ("gained", "lost", "verdict", "wording"),
    [
        (6, 0, "gain", "gain at 40 images (6 images gained, 0 lost, p = 0.031)"),
        (0, 6, "loss", "loss at 40 images (0 images gained, 6 lost, p = 0.031)"),
        (4, 0, "undecided", "about 55 images would decide it"),
        (3, 3, "undecided", "no number of images in reach"),
    ],
)
def test_the_wording_claims_no_more_than_the_test(gained: int, lost: int, verdict: str, wording: str) -> None:
    comparison = Comparison(40, gained, lost)
    assert comparison.verdict == verdict
    assert wording in comparison.wording
    assert comparison.wording.startswith(f"{verdict} at 40 images")


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
