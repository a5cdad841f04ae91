"""Tests and intervals for accuracies, and for the difference between two defenses on the same images.

The fixed-n ones hold for one look at a number of images that was chosen before. The anytime-valid ones hold however
often one looks, and for who goes on until a look decides.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

SIGNIFICANCE = 0.05

# The normal distribution's quantile for 95 % on both sides.
Z_95 = 1.959963984540054

# The chance with which `images_needed` images decide, and the normal distribution's quantile for it.
POWER = 0.8
_Z_POWER = 0.8416212335729143

# `images_needed` gives up beyond this many images: more than any evaluation has.
_MOST_IMAGES = 1_000_000


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test (McNemar, Psychometrika 1947), in [0, 1].

    The p-value is the probability that a fair coin, thrown once for each image on which the two defenses differ, falls
    at least as unevenly as `gained` to `lost`: 2·Σ_{i ≤ min} C(gained + lost, i)/2^(gained + lost), at most 1.

    Args:
        gained: number of images that only the first defense has right.
        lost: number of images that only the second defense has right.

    >>> mcnemar(6, 0)
    0.03125
    >>> mcnemar(3, 3)
    1.0
    """
    thrown = gained + lost
    # Logarithms, because the binomial coefficients of a few thousand images exceed a float.
    logs = (
        math.lgamma(thrown + 1) - math.lgamma(heads + 1) - math.lgamma(thrown - heads + 1) - thrown * math.log(2)
        for heads in range(min(gained, lost) + 1)
    )
    # Rounding of the logarithms stays below the 12th digit.
    return min(1.0, round(2 * math.fsum(math.exp(log) for log in logs), 12))


def log_evidence(gained: int, lost: int) -> float:
    """Return the natural logarithm of the E-value against chance of the images on which two defenses differ.

    E = 2^(b+c) · B(b+½, c+½) / B(½, ½): the likelihood of b gains and c losses, averaged over all chances q of a gain
    with Beta(½, ½) weights, by that for q = ½. If gains and losses are equally likely, E is a martingale of mean 1, so
    that it ever reaches 1/α with a probability of α at most (Ville, 1939; the mixture: Robbins, Annals of Mathematical
    Statistics 1970). So E ≥ 20 decides at 5 %, at whichever look it comes about.

    Args:
        gained: b, number of images that only the first defense has right.
        lost: c, number of images that only the second defense has right.

    >>> [round(math.exp(log_evidence(gained, 0)), 2) for gained in (0, 6, 7)]  # C(2b, b) / 2^b
    [1.0, 14.44, 26.81]
    >>> log_evidence(9, 2) == log_evidence(2, 9)
    True
    """
    return (gained + lost) * math.log(2) + _log_average(gained, lost)


def anytime_p(gained: int, lost: int) -> float:
    """Return 1/E, at most 1: a p-value in [0, 1] that is valid at every look; see `log_evidence`.

    >>> round(anytime_p(7, 0), 4), anytime_p(3, 3)
    (0.0373, 1.0)
    """
    return min(1.0, math.exp(-log_evidence(gained, lost)))


def confidence_sequence(successes: int, images: int, *, error: float = SIGNIFICANCE) -> tuple[float, float]:
    """Return the interval (low, high) of a share, in [0, 1], that holds at all looks together, by default at 95 %.

    It holds the shares p whose likelihood p^s (1−p)^f is more than `error` times the average over all shares with
    Beta(½, ½) weights, B(s+½, f+½) / B(½, ½): at the true share their ratio is a martingale of mean 1 (Robbins 1970).
    Bisection finds the ends. Without images it is (0, 1).

    Args:
        successes: s, number of images that count.
        images: s + f, number of all images.
        error: the probability, at most, that it ever misses the share.

    >>> [round(end, 4) for end in confidence_sequence(8, 32)]
    [0.0706, 0.5232]
    """
    failures = images - successes
    return _sequence_end(successes, failures, error), 1 - _sequence_end(failures, successes, error)


def _sequence_end(successes: int, failures: int, error: float) -> float:
    """Return the low end of `confidence_sequence`."""
    if successes == 0:
        return 0.0
    least = _log_average(successes, failures) + math.log(error)
    low, high = 0.0, successes / (successes + failures)
    while low < (middle := (low + high) / 2) < high:
        likelihood = successes * math.log(middle) + failures * math.log1p(-middle)
        low, high = (middle, high) if likelihood < least else (low, middle)
    return low


def _log_average(successes: int, failures: int) -> float:
    """Return ln(B(s+½, f+½) / B(½, ½)), the logarithm of the likelihood averaged with Beta(½, ½) weights."""
    whole = successes + failures + 1
    return math.lgamma(successes + 0.5) + math.lgamma(failures + 0.5) - math.lgamma(whole) - math.log(math.pi)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's corrected p-values, in [0, 1], of several tests, in their order.

    Where all of them below α are claimed, one or more of the claims is false with a probability of α at most (Holm,
    Scandinavian Journal of Statistics 1979): the i-th smallest of m, times m + 1 − i, and no less than the one before.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    corrected, reached = [0.0] * len(p_values), 0.0
    for place, position in enumerate(sorted(range(len(p_values)), key=lambda position: p_values[position])):
        reached = max(reached, min(1.0, p_values[position] * (len(p_values) - place)))
        corrected[position] = reached
    return corrected


def paired_interval(gained: int, lost: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of the difference of two accuracies on the same images, in [−1, 1].

    Source: Agresti & Min, Statistics in Medicine 2005: Wald's interval after half an image is added to each of the four
    counts. Wald's own interval is too short, and empty where the two never differ.

    Args:
        gained: number of images that only the first defense has right.
        lost: number of images that only the second defense has right.
        images: number of all images.

    >>> [round(end, 4) for end in paired_interval(0, 0, 100)]
    [-0.0192, 0.0192]
    >>> [round(end, 4) for end in paired_interval(8, 2, 100)]
    [-0.0039, 0.1215]
    """
    total, difference = images + 2, gained - lost
    margin = Z_95 * math.sqrt(gained + lost + 1 - difference**2 / total) / total
    return max(difference / total - margin, -1.0), min(difference / total + margin, 1.0)


def paired_sequence(gained: int, lost: int, images: int) -> tuple[float, float]:
    """Return the same interval, in [−1, 1], that holds at all looks together: from the sequences of both shares.

    Each of the two misses its share with half the probability of an error, so that they do not both hold with all of
    it at most. The interval is longer than it need be.

    >>> [round(end, 4) for end in paired_sequence(20, 2, 100)]
    [-0.0262, 0.3615]
    """
    (least_gained, most_gained), (least_lost, most_lost) = (
        confidence_sequence(count, images, error=SIGNIFICANCE / 2) for count in (gained, lost)
    )
    return least_gained - most_lost, most_gained - least_lost


def images_needed(gained: int, lost: int, images: int) -> int | None:
    """Return on how many images McNemar's test finds the difference with the chance `POWER`, if the shares stay.

    With the share ψ of images on which the two differ and the difference δ of their accuracies, both as observed,
    n₀ = (z·√ψ + z′·√(ψ − δ²))²/δ² for the quantiles z of `SIGNIFICANCE` (two-sided) and z′ of `POWER` (Connor,
    Biometrics 1987), and with the correction for continuity, as the exact test needs it,
    n = n₀/4·(1 + √(1 + 4/(n₀·|δ|)))².

    None if `gained` equals `lost`, and if the number exceeds a million.

    Args:
        gained, lost, images: as in `paired_interval`.

    >>> images_needed(3, 1, 50)
    439
    >>> images_needed(2, 2, 50) is None
    True
    """
    if gained == lost:
        return None
    differing, difference = (gained + lost) / images, abs(gained - lost) / images
    root = Z_95 * math.sqrt(differing) + _Z_POWER * math.sqrt(max(differing - difference**2, 0))
    uncorrected = (root / difference) ** 2
    needed = math.ceil(uncorrected / 4 * (1 + math.sqrt(1 + 4 / (uncorrected * difference))) ** 2)
    return needed if needed <= _MOST_IMAGES else None


def images_until_decided(gained: int, lost: int, images: int) -> int | None:
    """Return at which number of images E reaches 1 / `SIGNIFICANCE` if the shares stay exactly as they are.

    None if `gained` equals `lost`, and if the number exceeds a million.

    Args:
        gained, lost, images: as in `paired_interval`.

    >>> images_until_decided(3, 1, 50)
    492
    >>> images_until_decided(2, 2, 50) is None
    True
    """
    if gained == lost:
        return None

    def decided(number: int) -> bool:
        return Comparison(number, round(gained * number / images), round(lost * number / images), True).is_decided

    high = images
    while not decided(high):
        high *= 2
        if high > _MOST_IMAGES:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


class Comparison(NamedTuple):
    """A defense compared with the undefended model, image by image, in the worst case.

    Attributes:
        images: number of all images.
        gained: number of images that only the defense has right.
        lost: number of images that only the undefended model has right.
        anytime: the number of images was not chosen before the first look, so that the test must hold at every look.
        corrected: the p-value after Holm's correction, where several defenses were compared.

    >>> Comparison(images=100, gained=9, lost=1).verdict
    'gain'
    >>> Comparison(images=100, gained=9, lost=1, anytime=True).verdict
    'undecided'
    >>> Comparison(images=100, gained=5, lost=3).verdict
    'undecided'
    """

    images: int
    gained: int
    lost: int
    anytime: bool = False
    corrected: float | None = None

    @property
    def p(self) -> float:
        """The p-value: McNemar's exact one, or the one that is valid at every look."""
        return anytime_p(self.gained, self.lost) if self.anytime else mcnemar(self.gained, self.lost)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference of the two accuracies, for one look or for all."""
        return (paired_sequence if self.anytime else paired_interval)(self.gained, self.lost, self.images)

    @property
    def is_decided(self) -> bool:
        """Whether p < `SIGNIFICANCE`; for the test that holds at every look, whether E reaches 1 / `SIGNIFICANCE`."""
        return self.p <= SIGNIFICANCE if self.anytime else self.p < SIGNIFICANCE

    @property
    def verdict(self) -> str:
        """``gain``, ``loss`` or ``undecided``."""
        if not self.is_decided:
            return "undecided"
        return "gain" if self.gained > self.lost else "loss"

    @property
    def p_values(self) -> str:
        """The p-value, and the corrected one beside it, as a phrase.

        >>> Comparison(images=100, gained=9, lost=1, corrected=0.043).p_values
        'p = 0.021, Holm: 0.043'
        """
        return f"p = {self.p:.2g}" if self.corrected is None else f"p = {self.p:.2g}, Holm: {self.corrected:.2g}"

    @property
    def counts(self) -> str:
        """What the verdict rests on, as a phrase."""
        looks = ", valid at every look" if self.anytime else ""
        return f"{self.gained} images gained, {self.lost} lost, {self.p_values}{looks}"

    @property
    def outlook(self) -> str:
        """How many images would decide it, rounded up to two digits, as a clause.

        >>> Comparison(images=50, gained=3, lost=1).outlook
        'about 440 images would decide it at 80 % power, if the shares stay'
        >>> Comparison(images=50, gained=3, lost=1, anytime=True).outlook
        'about 500 images would decide it, if the shares stay'
        """
        needed = (images_until_decided if self.anytime else images_needed)(self.gained, self.lost, self.images)
        if needed is None:
            return "no number of images in reach would decide it"
        unit = 10 ** max(len(str(needed)) - 2, 0)
        rounded = f"{math.ceil(needed / unit) * unit:,}".replace(",", " ")
        power = "" if self.anytime else f" at {100 * POWER:.0f} % power"
        return f"about {rounded} images would decide it{power}, if the shares stay"
