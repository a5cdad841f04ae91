"""What a search tries, and what it learns from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import NamedTuple

from igd_ray.statistics import paired_interval


class Noise(NamedTuple):
    """What the first pass's logits depend on: σ in [0, 1] pixel units, and the draws."""

    sigma: float
    draws: int


@dataclass(frozen=True)
class Setting:
    """One setting of the two-pass defense.

    Attributes:
        k: neurons kept, the same for every class or one for each.
        sigma, tau, draws: of the first pass.
    """

    k: int | tuple[int, ...]
    sigma: float
    tau: float
    draws: int

    @property
    def noise(self) -> Noise:
        """What its noisy logits are cached under."""
        return Noise(self.sigma, self.draws)

    @property
    def group(self) -> tuple[float, float, int]:
        """Everything but k."""
        return self.sigma, self.tau, self.draws

    @property
    def mean_k(self) -> float:
        """k, or its mean over the classes."""
        return float(self.k) if isinstance(self.k, int) else mean(self.k)


@dataclass(frozen=True)
class Measurement:
    """A setting's clean predictions beside the base model's, on the same images and noise, class by class.

    Attributes:
        images: how many, [C].
        base_correct: how many the base model gets right, [C].
        gained, lost: how many only the defense, or only the base model, gets right, [C].
    """

    images: tuple[int, ...]
    base_correct: tuple[int, ...]
    gained: tuple[int, ...]
    lost: tuple[int, ...]

    @property
    def base_accuracy(self) -> float:
        """The base model's, as a fraction."""
        return sum(self.base_correct) / sum(self.images)

    @property
    def accuracy(self) -> float:
        """The defense's, as a fraction."""
        return (sum(self.base_correct) + sum(self.gained) - sum(self.lost)) / sum(self.images)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the defense's accuracy minus the base model's."""
        return paired_interval(sum(self.gained), sum(self.lost), sum(self.images))

    def within(self, tolerance: float) -> bool:
        """Return whether accuracy falls by no more than `tolerance`, a fraction."""
        return _within(sum(self.gained), sum(self.lost), sum(self.images), tolerance)

    def classes_within(self, tolerance: float) -> tuple[bool, ...]:
        """Return for which classes accuracy on their images falls by no more than `tolerance`."""
        counts = zip(self.gained, self.lost, self.images, strict=True)
        return tuple(_within(gained, lost, images, tolerance) for gained, lost, images in counts)


@dataclass(frozen=True)
class Trial:
    """A setting that was tried.

    Attributes:
        number: where it stands among the trials of its search, whoever ran it and in whatever order.
        setting: what was tried.
        measurement: what came of it.
        feasible: whether clean accuracy stays within the tolerance: over all images, or, with a k for each class,
            in every class.
        seconds: how long it took.
    """

    number: int
    setting: Setting
    measurement: Measurement
    feasible: bool
    seconds: float

    @property
    def order(self) -> tuple[float, float, int]:
        """What ranks feasible trials: the smallest k, as robustness grows as k falls; then clean accuracy."""
        return self.setting.mean_k, -self.measurement.accuracy, self.number


def best_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return the feasible `trials`, best first: the best of every (σ, τ, draws), then the others."""
    ordered = sorted((trial for trial in trials if trial.feasible), key=lambda trial: trial.order)
    firsts = {trial.setting.group: trial for trial in reversed(ordered)}
    return sorted(ordered, key=lambda trial: (firsts[trial.setting.group] is not trial, trial.order))


def most_accurate(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the highest clean accuracy, the smallest k of equal ones."""
    return min(trials, key=lambda trial: (-trial.measurement.accuracy, trial.order))


def _within(gained: int, lost: int, images: int, tolerance: float) -> bool:
    """Compare numbers of images: a fraction such as 0.8 − 0.1 is no float."""
    return lost - gained <= tolerance * images + 1e-6
