"""Samplers: which setting a search tries next.

One process, or Ray Tune, asks a sampler for settings and tells it the trials. The number of a trial follows from the
trials told before, not from who ran it or when. So a search that continues elsewhere, or with more trials at a time,
has the same trials.
"""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Literal, NamedTuple, Protocol

from igd_ray.errors import InputError
from igd_ray.search.bisection import Bisection, ClassBisections
from igd_ray.search.space import Measurement, Setting, Trial

KMode = Literal["shared", "per-class"]


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a search may try.

    Attributes:
        ks: candidates for k, ascending.
        sigmas: σ, in [0, 1] pixel units.
        taus: temperatures.
        draws: numbers of noise draws; without noise only one draw is tried.
    """

    ks: Sequence[int]
    sigmas: tuple[float, ...]
    taus: tuple[float, ...]
    draws: tuple[int, ...]

    @property
    def groups(self) -> list[tuple[float, float, int]]:
        """All combinations (σ, τ, draws), each once."""
        every = itertools.product(self.sigmas, self.taus, self.draws)
        return list(dict.fromkeys((sigma, tau, draws if sigma else 1) for sigma, tau, draws in every))


class Proposal(NamedTuple):
    """A setting to try, and the number of its trial."""

    number: int
    setting: Setting


class Sampler(Protocol):
    """Chooses settings: `ask()` for a proposal, run it, `tell()` the trial, until `finished`.

    Attributes:
        most_trials: the expected number of trials, for progress.
        groups: how many trials can run at once.
        tolerance: how far clean accuracy may fall, as a fraction.
    """

    most_trials: int
    groups: int
    tolerance: float

    @property
    def finished(self) -> bool:
        """Whether every proposal was told and no other will follow."""
        ...

    def ask(self) -> Proposal | None:
        """Return a setting to try; None while it waits for trials, and when it has finished."""
        ...

    def judged(self, measurement: Measurement) -> bool:
        """Return whether a setting with `measurement` is feasible."""
        ...

    def tell(self, trial: Trial) -> None:
        """Record a trial, whether this process proposed it or an earlier one did."""
        ...


class _Group:
    """The bisection of one (σ, τ, draws)."""

    def __init__(self, number: int, values: tuple[float, float, int], search: Bisection | ClassBisections) -> None:
        self.number = number
        self.values = values
        self.search = search
        self.steps = 0
        self.waiting = False


class BisectionSampler:
    """Finds the smallest k within the tolerance by bisection, for each (σ, τ, draws) side by side.

    Args:
        space: what may be tried.
        tolerance: how far clean accuracy may fall, as a fraction.
        k_mode: "shared" for one k; "per-class" for one k per class, each judged on the images of its class.
        classes: C.
    """

    def __init__(self, space: SearchSpace, tolerance: float, *, k_mode: KMode = "shared", classes: int = 1) -> None:
        self.tolerance = tolerance
        self._ks = space.ks
        self._per_class = k_mode == "per-class"
        width = len(space.ks)
        self._groups = [
            _Group(number, values, ClassBisections(width, classes) if self._per_class else Bisection(width))
            for number, values in enumerate(space.groups)
        ]
        self.groups = len(self._groups)
        self.most_trials = self.groups * (ceil(log2(width)) + 3)

    @property
    def finished(self) -> bool:
        """Whether every bisection has ended."""
        return all(not group.waiting and group.search.next_k() is None for group in self._groups)

    def ask(self) -> Proposal | None:
        """Return the next proposal of the bisection with the fewest trials."""
        for group in sorted(self._groups, key=lambda group: (group.steps, group.number)):
            position = None if group.waiting else group.search.next_k()
            if position is not None:
                group.waiting = True
                sigma, tau, draws = group.values
                setting = Setting(self._k_at(position), sigma, tau, draws)
                return Proposal(group.steps * self.groups + group.number, setting)
        return None

    def judged(self, measurement: Measurement) -> bool:
        """Return whether accuracy stays within the tolerance: over all images, or in every class."""
        if self._per_class:
            return all(measurement.classes_within(self.tolerance))
        return measurement.within(self.tolerance)

    def tell(self, trial: Trial) -> None:
        """Tell the bisection of the trial's (σ, τ, draws) whether its k is feasible."""
        group = next(group for group in self._groups if group.values == trial.setting.group)
        group.waiting = False
        group.steps += 1
        k = trial.setting.k
        if isinstance(group.search, ClassBisections):
            assert isinstance(k, tuple)
            positions = [self._ks.index(each) + 1 for each in k]
            group.search.tell(positions, trial.measurement.classes_within(self.tolerance))
        else:
            assert isinstance(k, int)
            group.search.tell(self._ks.index(k) + 1, trial.feasible)

    def _k_at(self, position: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(position, int):
            return self._ks[position - 1]
        return tuple(self._ks[each - 1] for each in position)


class ListSampler:
    """Proposes a fixed list of settings.

    Args:
        settings: the list; the number of a trial is its position.
        tolerance: how far clean accuracy may fall, as a fraction.
    """

    def __init__(self, settings: Sequence[Setting], tolerance: float) -> None:
        self.tolerance = tolerance
        self.most_trials = self.groups = len(settings)
        self._settings = settings
        self._asked: set[int] = set()
        self._told: set[int] = set()

    @property
    def finished(self) -> bool:
        """Whether all trials were told."""
        return len(self._told) == len(self._settings)

    def ask(self) -> Proposal | None:
        """Return the next setting of the list."""
        number = next((number for number in range(len(self._settings)) if number not in self._asked), None)
        if number is None:
            return None
        self._asked.add(number)
        return Proposal(number, self._settings[number])

    def judged(self, measurement: Measurement) -> bool:
        """Return whether accuracy stays within the tolerance."""
        return measurement.within(self.tolerance)

    def tell(self, trial: Trial) -> None:
        """Record the trial as done."""
        self._asked.add(trial.number)
        self._told.add(trial.number)


class PackageSampler:
    """Describes a search by an algorithm of another package, which Ray Tune runs; proposes nothing itself.

    Args:
        name: Ray Tune's name of the algorithm, such as "optuna".
        space: the settings that may be tried.
        tolerance: how far clean accuracy may fall, as a fraction.
        trials: number of trials.
        seed: seed of the algorithm.
    """

    groups = 1  # one trial at a time: each proposal follows from all trials before it

    def __init__(self, name: str, space: SearchSpace, tolerance: float, trials: int, seed: int) -> None:
        self.name = name
        self.space = space
        self.tolerance = tolerance
        self.most_trials = trials
        self.seed = seed
        self.told: list[Trial] = []

    @property
    def finished(self) -> bool:
        """Whether all trials were told."""
        return len(self.told) >= self.most_trials

    def ask(self) -> Proposal | None:
        """Raise an error: only Ray Tune can run this sampler.

        Raises:
            InputError: always.
        """
        raise InputError(f"--sampler {self.name} runs under Ray Tune; use --executor ray")

    def judged(self, measurement: Measurement) -> bool:
        """Return whether accuracy stays within the tolerance."""
        return measurement.within(self.tolerance)

    def loss(self, trial: Trial) -> float:
        """Return what the algorithm minimises: k / max k if feasible, else 1 + the loss of clean accuracy."""
        measurement = trial.measurement
        if trial.feasible:
            return trial.setting.mean_k / max(self.space.ks)
        return 1 + measurement.base_accuracy - measurement.accuracy

    def tell(self, trial: Trial) -> None:
        """Record a trial."""
        self.told.append(trial)


def grid(space: SearchSpace) -> list[Setting]:
    """Return every (σ, τ, draws) with a ladder of k: the candidates at positions 1, 2, 4, … and the last one.

    >>> [setting.k for setting in grid(SearchSpace(ks=range(1, 11), sigmas=(0.0,), taus=(0.01,), draws=(1,)))]
    [10, 8, 4, 2, 1]
    """
    steps = sorted({min(2**exponent, len(space.ks)) for exponent in range(len(space.ks).bit_length() + 1)})
    return [
        Setting(space.ks[step - 1], sigma, tau, draws) for sigma, tau, draws in space.groups for step in reversed(steps)
    ]


def random_settings(space: SearchSpace, trials: int, seed: int) -> list[Setting]:
    """Return `trials` different settings, drawn uniformly from `space`; all of them if `space` has fewer."""
    groups, ks = space.groups, space.ks
    drawn = random.Random(seed).sample(range(len(groups) * len(ks)), min(trials, len(groups) * len(ks)))
    return [Setting(ks[place % len(ks)], *groups[place // len(ks)]) for place in drawn]
