"""Which setting a search tries next. Pure: asked for settings and told of trials, by one process or by Ray Tune.

A trial's number follows from what was told, not from who ran it or when, so a search that goes on elsewhere, or with
more trials at a time, has the same trials.
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
    """What may be tried.

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
        """Every (σ, τ, draws), each once."""
        every = itertools.product(self.sigmas, self.taus, self.draws)
        return list(dict.fromkeys((sigma, tau, draws if sigma else 1) for sigma, tau, draws in every))


class Asked(NamedTuple):
    """A setting to try, and the number of its trial."""

    number: int
    setting: Setting


class Sampler(Protocol):
    """Chooses settings.

    Attributes:
        most_trials: about how many trials it takes, for progress.
        groups: how many trials can be in flight at once.
        tolerance: how far clean accuracy may fall, as a fraction.
    """

    most_trials: int
    groups: int
    tolerance: float

    @property
    def finished(self) -> bool:
        """Whether nothing is left to try or to wait for."""
        ...

    def ask(self) -> Asked | None:
        """Return a setting to try, or None where answers must come first or nothing is left."""
        ...

    def judged(self, measurement: Measurement) -> bool:
        """Return whether a setting with `measurement` is feasible."""
        ...

    def tell(self, trial: Trial) -> None:
        """Record a trial that was asked for, or one that an earlier process finished."""
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
    """The smallest k within the tolerance, for each (σ, τ, draws), all bisected side by side.

    Args:
        space: what may be tried.
        tolerance: how far clean accuracy may fall, as a fraction.
        k_mode: one k for all classes, or one for each, judged on that class's images.
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

    def ask(self) -> Asked | None:
        """Return the next question of the bisection that has had the fewest answers."""
        for group in sorted(self._groups, key=lambda group: (group.steps, group.number)):
            position = None if group.waiting else group.search.next_k()
            if position is not None:
                group.waiting = True
                sigma, tau, draws = group.values
                setting = Setting(self._k_at(position), sigma, tau, draws)
                return Asked(group.steps * self.groups + group.number, setting)
        return None

    def judged(self, measurement: Measurement) -> bool:
        """Return whether accuracy holds, of all images or in every class."""
        if self._per_class:
            return all(measurement.classes_within(self.tolerance))
        return measurement.within(self.tolerance)

    def tell(self, trial: Trial) -> None:
        """Answer the bisection of the trial's (σ, τ, draws)."""
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
    """Settings that are known from the start.

    Args:
        settings: all of them; a trial's number is its place.
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
        """Whether all were tried."""
        return len(self._told) == len(self._settings)

    def ask(self) -> Asked | None:
        """Return the next one."""
        number = next((number for number in range(len(self._settings)) if number not in self._asked), None)
        if number is None:
            return None
        self._asked.add(number)
        return Asked(number, self._settings[number])

    def judged(self, measurement: Measurement) -> bool:
        """Return whether accuracy holds."""
        return measurement.within(self.tolerance)

    def tell(self, trial: Trial) -> None:
        """Record that it was tried."""
        self._asked.add(trial.number)
        self._told.add(trial.number)


class PackageSampler:
    """What Ray Tune asks a package of search algorithms for; it cannot ask by itself.

    Args:
        name: what Tune calls the algorithm, such as "optuna".
        space: what may be tried.
        tolerance: how far clean accuracy may fall, as a fraction.
        trials: how many are tried.
        seed: the algorithm's.
    """

    groups = 1  # one at a time: what it asks next follows from all answers

    def __init__(self, name: str, space: SearchSpace, tolerance: float, trials: int, seed: int) -> None:
        self.name = name
        self.space = space
        self.tolerance = tolerance
        self.most_trials = trials
        self.seed = seed
        self.told: list[Trial] = []

    @property
    def finished(self) -> bool:
        """Whether all were tried."""
        return len(self.told) >= self.most_trials

    def ask(self) -> Asked | None:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(f"--sampler {self.name} runs under Ray Tune; use --executor ray")

    def judged(self, measurement: Measurement) -> bool:
        """Return whether accuracy holds."""
        return measurement.within(self.tolerance)

    def loss(self, trial: Trial) -> float:
        """Return what the algorithm minimises: k's share where feasible, else beyond all of these by the shortfall."""
        measurement = trial.measurement
        if trial.feasible:
            return trial.setting.mean_k / max(self.space.ks)
        return 1 + measurement.base_accuracy - measurement.accuracy

    def tell(self, trial: Trial) -> None:
        """Keep a trial."""
        self.told.append(trial)


def grid(space: SearchSpace) -> list[Setting]:
    """Return every (σ, τ, draws) with every k of a ladder: the candidates at 1, 2, 4, … and the last."""
    steps = sorted({min(2**exponent, len(space.ks)) for exponent in range(len(space.ks).bit_length() + 1)})
    return [
        Setting(space.ks[step - 1], sigma, tau, draws) for sigma, tau, draws in space.groups for step in reversed(steps)
    ]


def random_settings(space: SearchSpace, trials: int, seed: int) -> list[Setting]:
    """Return `trials` different settings, or all if there are fewer, drawn evenly."""
    groups, ks = space.groups, space.ks
    drawn = random.Random(seed).sample(range(len(groups) * len(ks)), min(trials, len(groups) * len(ks)))
    return [Setting(ks[place % len(ks)], *groups[place // len(ks)]) for place in drawn]
