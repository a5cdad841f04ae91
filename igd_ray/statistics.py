"""Tests and intervals for the difference between two defenses on the same images."""

import math
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


class Comparison(NamedTuple):
    """A defense compared with the undefended model, image by image, in the worst case.

    Attributes:
        images: number of all images.
        gained: number of images that only the defense has right.
        lost: number of images that only the undefended model has right.

    >>> Comparison(images=100, gained=9, lost=1).verdict
    'gain'
    >>> Comparison(images=100, gained=5, lost=3).verdict
    'undecided'
    """

    images: int
    gained: int
    lost: int

    @property
    def p(self) -> float:
        """The exact p-value of McNemar's test."""
        return mcnemar(self.gained, self.lost)

    @property
    def verdict(self) -> str:
        """``gain``, ``loss`` or ``undecided``."""
        if self.p >= SIGNIFICANCE:
            return "undecided"
        return "gain" if self.gained > self.lost else "loss"

    @property
    def counts(self) -> str:
        """What the verdict rests on, as a phrase."""
        return f"{self.gained} images gained, {self.lost} lost, p = {self.p:.2g}"

    @property
    def outlook(self) -> str:
        """How many images would decide it, rounded up to two digits, as a clause.

        >>> Comparison(images=50, gained=3, lost=1).outlook
        'about 440 images would decide it at 80 % power, if the shares stay'
        """
        needed = images_needed(self.gained, self.lost, self.images)
        if needed is None:
            return "no number of images in reach would decide it"
        unit = 10 ** max(len(str(needed)) - 2, 0)
        rounded = f"{math.ceil(needed / unit) * unit:,}".replace(",", " ")
        return f"about {rounded} images would decide it at {100 * POWER:.0f} % power, if the shares stay"
