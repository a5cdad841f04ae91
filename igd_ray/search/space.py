"""Settings, measurements and trials of a search."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple

from igd_ray.statistics import paired_interval


class Noise(NamedTuple):
    """The noise of the first pass: σ in [0, 1] pixel units, and the number of draws."""

    sigma: float
    draws: int


@dataclass(frozen=True)
class Setting:
    """One setting of the two-pass defense.

    Attributes:
        k: number of neurons kept, one for all classes or one per class.
        sigma: σ of the noise, in [0, 1] pixel units.
        tau: temperature of the pseudo-label.
        draws: number of noise draws.
    """

    k: int | tuple[int, ...]
    sigma: float
    tau: float
    draws: int

    @property
    def noise(self) -> Noise:
        """The key of the cached first-pass logits."""
        return Noise(self.sigma, self.draws)

    @property
    def group(self) -> tuple[float, float, int]:
        """(σ, τ, draws): the setting without k."""
        return self.sigma, self.tau, self.draws

    @property
    def mean_k(self) -> float:
        """k, or its mean over the classes."""
        return float(self.k) if isinstance(self.k, int) else mean(self.k)


@dataclass(frozen=True)
class Measurement:
    """Counts of clean predictions, of the defense and the base model on the same images and noise, class by class.

    Attributes:
        images: number of images, [C].
        base_correct: number of images that the base model classifies correctly, [C].
        gained, lost: number of images that only the defense, or only the base model, classifies correctly, [C].

    >>> measured = Measurement(images=(50, 50), base_correct=(45, 40), gained=(1, 0), lost=(0, 2))
    >>> measured.base_accuracy, measured.accuracy, measured.classes_within(0.03)
    (0.85, 0.84, (True, False))
    """

    images: tuple[int, ...]
    base_correct: tuple[int, ...]
    gained: tuple[int, ...]
    lost: tuple[int, ...]

    @property
    def base_accuracy(self) -> float:
        """Clean accuracy of the base model, as a fraction."""
        return sum(self.base_correct) / sum(self.images)

    @property
    def accuracy(self) -> float:
        """Clean accuracy of the defense, as a fraction."""
        return (sum(self.base_correct) + sum(self.gained) - sum(self.lost)) / sum(self.images)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the defense's accuracy minus the base model's."""
        return paired_interval(sum(self.gained), sum(self.lost), sum(self.images))

    def within(self, tolerance: float) -> bool:
        """Return whether accuracy falls by at most `tolerance`, a fraction."""
        return _within(sum(self.gained), sum(self.lost), sum(self.images), tolerance)

    def classes_within(self, tolerance: float) -> tuple[bool, ...]:
        """Return for each class whether accuracy on its images falls by at most `tolerance`."""
        counts = zip(self.gained, self.lost, self.images, strict=True)
        return tuple(_within(gained, lost, images, tolerance) for gained, lost, images in counts)


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        number: its position among the trials of its search, whoever ran them and in whatever order.
        setting: the setting.
        measurement: its clean predictions.
        feasible: whether clean accuracy stays within the tolerance: over all images or, with one k per class, in
            every class.
        seconds: its duration.
    """

    number: int
    setting: Setting
    measurement: Measurement
    feasible: bool
    seconds: float

    @property
    def order(self) -> tuple[float, float, int]:
        """Sorts feasible trials: the smallest k first, because robustness grows as k falls; then clean accuracy."""
        return self.setting.mean_k, -self.measurement.accuracy, self.number


def best_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return the feasible `trials`: first the best of every (σ, τ, draws), then the others; each part best first."""
    ordered = sorted((trial for trial in trials if trial.feasible), key=lambda trial: trial.order)
    firsts = {trial.setting.group: trial for trial in reversed(ordered)}
    return sorted(ordered, key=lambda trial: (firsts[trial.setting.group] is not trial, trial.order))


def most_accurate(trials: Sequence[Trial]) -> Trial:
    """Return the trial with the highest clean accuracy; of equal ones, the one with the smallest k."""
    return min(trials, key=lambda trial: (-trial.measurement.accuracy, trial.order))


def _within(gained: int, lost: int, images: int, tolerance: float) -> bool:
    """Compare numbers of images rather than fractions: 0.8 − 0.1 is not exact as a float."""
    return lost - gained <= tolerance * images + 1e-6
