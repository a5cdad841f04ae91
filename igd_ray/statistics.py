"""Whether a difference between two defenses on the same images is more than chance."""

import math
from typing import NamedTuple

SIGNIFICANCE = 0.05

# The normal distribution's quantile for 95 % on both sides.
Z_95 = 1.959963984540054

# Beyond this many images nobody evaluates, and "never" is the honest word.
_MOST_IMAGES = 1_000_000


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    It is the chance that a fair coin, thrown once for each image on which the two differ, falls at least as
    unevenly as `gained` to `lost`.

    Args:
        gained: images that only the first keeps.
        lost: images that only the second keeps.

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
    """Return the 95 % interval of a difference of two shares of the same images (Agresti & Min, 2005).

    Args:
        gained: images that only the first has right.
        lost: images that only the second has right.
        images: all images.

    >>> [round(end, 4) for end in paired_interval(0, 0, 100)]
    [-0.0192, 0.0192]
    """
    # Half an image is added to each of the four counts; Wald's interval is too short, and empty without differences.
    total, difference = images + 2, gained - lost
    margin = Z_95 * math.sqrt(gained + lost + 1 - difference**2 / total) / total
    return max(difference / total - margin, -1.0), min(difference / total + margin, 1.0)


def images_needed(gained: int, lost: int, images: int) -> int | None:
    """Return how many images would decide the difference, if it kept its shares; None if it is none or too small."""
    if gained == lost:
        return None

    def decided(number: int) -> bool:
        return mcnemar(round(gained * number / images), round(lost * number / images)) < SIGNIFICANCE

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
    """A defense against the undefended model, image by image, in the worst case."""

    images: int
    gained: int
    lost: int

    @property
    def p(self) -> float:
        """The exact p-value."""
        return mcnemar(self.gained, self.lost)

    @property
    def verdict(self) -> str:
        """``gain``, ``loss`` or ``undecided``."""
        if self.p >= SIGNIFICANCE:
            return "undecided"
        return "gain" if self.gained > self.lost else "loss"

    @property
    def wording(self) -> str:
        """What may be claimed, in words."""
        counts = f"{self.gained} images gained, {self.lost} lost, p = {self.p:.2g}"
        if self.verdict != "undecided":
            return f"{self.verdict} at {self.images} images ({counts})"
        needed = images_needed(self.gained, self.lost, self.images)
        outlook = (
            f"about {needed} images would decide it, if the shares stay" if needed else "no number of images in reach"
        )
        return f"undecided at {self.images} images ({counts}; {outlook})"
