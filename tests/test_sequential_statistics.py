"""Tests and intervals that hold at every look, against closed forms, integrals, scipy and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from igd_ray.statistics import (
    Comparison,
    anytime_p,
    confidence_sequence,
    holm,
    images_until_decided,
    log_evidence,
    mcnemar,
    paired_interval,
    paired_sequence,
)


@pytest.mark.parametrize("gained", [0, 1, 2, 6, 7, 30])
def test_evidence_without_losses_has_a_closed_form(gained: int) -> None:
    # B(b + ½, ½) / π = C(2b, b) / 4^b.
    assert math.exp(log_evidence(gained, 0)) == pytest.approx(math.comb(2 * gained, gained) / 2**gained, rel=1e-12)


@given(st.integers(0, 40), st.integers(0, 40))
def test_evidence_is_the_likelihood_ratio_averaged_over_all_chances(gained: int, lost: int) -> None:
    # With q = sin²(t) the weights Beta(½, ½) are uniform in t; the sum is exact for trigonometric polynomials.
    steps = 4 * (gained + lost + 1)
    angles = (np.arange(steps) + 0.5) * np.pi / steps
    ratio = (2 * np.sin(angles) ** 2) ** gained * (2 * np.cos(angles) ** 2) ** lost
    assert math.exp(log_evidence(gained, lost)) == pytest.approx(ratio.mean(), rel=1e-9)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_evidence_of_many_images_is_that_of_scipy(gained: int, lost: int) -> None:
    special = pytest.importorskip("scipy.special")
    expected = (gained + lost) * math.log(2) + special.betaln(gained + 0.5, lost + 0.5) - special.betaln(0.5, 0.5)
    assert log_evidence(gained, lost) == pytest.approx(expected, rel=1e-9, abs=1e-7)


def test_a_p_value_for_every_look_is_larger_and_decides_from_seven_images_on() -> None:
    assert anytime_p(7, 0) == pytest.approx(128 / 3432)
    assert (mcnemar(6, 0) < 0.05, anytime_p(6, 0) < 0.05, anytime_p(7, 0) < 0.05) == (True, False, True)
    assert anytime_p(10**6, 0) == 0.0
    assert Comparison(20, 6, 0).verdict == "gain"
    assert Comparison(20, 6, 0, anytime=True).verdict == "undecided"
    assert Comparison(20, 0, 7, anytime=True).verdict == "loss"


@pytest.mark.parametrize(
    ("successes", "images"), [(0, 1), (0, 40), (3, 7), (20, 40), (40, 40), (65, 200), (9000, 10_000)]
)
def test_a_confidence_sequence_holds_the_shares_that_the_martingale_does_not_reject(
    successes: int, images: int
) -> None:
    low, high = confidence_sequence(successes, images)
    shares = np.linspace(0, 1, 100_001)[1:-1]
    failures = images - successes
    average = math.lgamma(successes + 0.5) + math.lgamma(failures + 0.5) - math.lgamma(images + 1) - math.log(math.pi)
    martingale = average - successes * np.log(shares) - failures * np.log1p(-shares)
    kept = shares[martingale < math.log(20)]
    assert (low, high) == pytest.approx((kept.min(), kept.max()), abs=2e-5)
    assert (low == 0, high == 1) == (successes == 0, successes == images)


def test_a_confidence_sequence_without_images_says_nothing() -> None:
    assert confidence_sequence(0, 0) == (0.0, 1.0)


def test_holm_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    # 3 · 0.01, 2 · 0.02, 1 · 0.03 raised to the one before; and never above 1.
    assert holm([0.03, 0.01, 0.02]) == [0.04, 0.03, 0.04]
    assert holm([0.9, 0.6]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_steps_reject(p_values: list[float]) -> None:
    """The procedure as published: from the smallest on, compare with α / (m − i), and stop at the first that fails."""
    alpha, rejected = 0.05, set()
    for place, position in enumerate(sorted(range(len(p_values)), key=lambda position: p_values[position])):
        if p_values[position] * (len(p_values) - place) > alpha:
            break
        rejected.add(position)
    assert {position for position, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_images_until_decided_is_the_least_number_found_by_trying() -> None:
    # One image in ten is gained and none lost: round(n / 10) = 7 first at n = 66, as 6.5 rounds to 6.
    assert images_until_decided(4, 0, 40) == 66
    assert images_until_decided(3, 3, 40) is None


EXPERIMENTS, SHARDS, SHARD = 10_000, 64, 32


@pytest.fixture(scope="module")
def null_experiments() -> tuple[np.ndarray, np.ndarray]:
    """Images gained and lost [experiments, looks] where a defense changes nothing, but one image in five by chance."""
    draw = np.random.default_rng(0)
    differing = draw.binomial(SHARD, 0.2, (EXPERIMENTS, SHARDS))
    gained = draw.binomial(differing, 0.5)
    return gained.cumsum(axis=1), (differing - gained).cumsum(axis=1)


def ever_decided(gained: np.ndarray, lost: np.ndarray, *, anytime: bool) -> float:
    """The share of experiments that some look after a shard calls a gain or a loss."""
    pairs, places = np.unique(np.stack([gained.ravel(), lost.ravel()]), axis=1, return_inverse=True)
    decided = [Comparison(0, int(b), int(c), anytime).is_decided for b, c in pairs.T]
    return float(np.array(decided)[places].reshape(gained.shape).any(axis=1).mean())


def test_looking_after_every_shard_claims_a_false_difference_in_fewer_than_one_of_twenty(
    null_experiments: tuple[np.ndarray, np.ndarray],
) -> None:
    assert 0 < ever_decided(*null_experiments, anytime=True) < 0.05


def test_with_the_test_for_one_look_it_would_be_five_times_as_many(
    null_experiments: tuple[np.ndarray, np.ndarray],
) -> None:
    gained, lost = null_experiments
    assert ever_decided(gained[:, -1:], lost[:, -1:], anytime=False) < 0.05, "one look, at a number chosen before"
    assert ever_decided(gained, lost, anytime=False) > 0.25, "a look after every shard"


def test_the_sequence_of_a_difference_holds_both_shares_and_is_longer_than_that_of_one_look() -> None:
    assert paired_sequence(0, 0, 0) == (-1.0, 1.0)
    low, high = paired_sequence(20, 2, 100)
    (gain_low, gain_high), (loss_low, loss_high) = (confidence_sequence(n, 100, error=0.025) for n in (20, 2))
    assert (low, high) == (gain_low - loss_high, gain_high - loss_low)
    assert low < paired_interval(20, 2, 100)[0] < paired_interval(20, 2, 100)[1] < high
    assert Comparison(100, 20, 2).interval == paired_interval(20, 2, 100)
    assert Comparison(100, 20, 2, anytime=True).interval == (low, high)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_a_confidence_sequence_holds_the_true_share_at_all_looks_together(share: float) -> None:
    successes = np.random.default_rng(1).binomial(SHARD, share, (2000, SHARDS)).cumsum(axis=1)
    images = np.broadcast_to(SHARD * np.arange(1, SHARDS + 1), successes.shape)
    pairs, places = np.unique(np.stack([successes.ravel(), images.ravel()]), axis=1, return_inverse=True)
    ends = (confidence_sequence(int(count), int(of)) for count, of in pairs.T)
    holds = np.array([low <= share <= high for low, high in ends])[places].reshape(successes.shape)
    assert holds.all(axis=1).mean() > 0.95
