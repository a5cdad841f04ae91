"""The paired test, against scipy and by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igd_ray.statistics import Comparison, images_needed, mcnemar


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
