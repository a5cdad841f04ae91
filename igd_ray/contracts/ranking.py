"""What a ranking owes to an evaluation."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from igd_ray.defenses.contract import condition
from igd_ray.identity import content_hash
from igd_ray.properties import BrokenContractError, Check, Found, Property, properties_of
from igd_ray.ranking import Batch, Ranking, State, Statistic
from igd_ray.ranking.base import Replica
from igd_ray.units.arrays import array_rows, arrays_of

# Into so many shards the images are cut.
SHARDS = 4

# How far two states, or scores, of the same images may be off, relative to their values: sums in another order.
ROUNDING = 1e-5


def look_at_ranking(ranking: Ranking, replica: Replica, images: Tensor, labels: Tensor) -> list[Property]:
    """Look at a ranking on a few probe images, and stop at the first error.

    Args:
        ranking: prepared.
        replica: the models.
        images: float32 [n, C, H, W] in [0, 1], at least one of each class; none if the ranking reads no images.
        labels: int64 [n].
    """
    look = _Look(ranking, replica, images, labels)
    checks: tuple[Check, ...] = (
        ("settings", "its layer, fields and code tell its results from those of other rankings", look.settings),
        ("states", "`update` turns a shard of images into arrays, on any worker", look.states),
        ("model", "the model stays as it is: every other unit of the worker shares it", look.model),
        ("seed", "one shard has one state, whatever ran before it", look.seed),
        ("storage", "states are kept in the catalog, so that a killed ranking continues", look.storage),
        ("merge", "states are merged in the order of the images, however they are grouped", look.merge),
        ("scores", "a score for each class and neuron; masks keep the highest", look.scores),
        ("shards", "how images are cut into units has no part in the scores", look.shards),
    )
    return properties_of(checks)


class _Look:
    """The checks, each of which rests on those before."""

    def __init__(self, ranking: Ranking, replica: Replica, images: Tensor, labels: Tensor) -> None:
        self._ranking, self._replica = ranking, replica
        self._images, self._labels = images, labels
        self._states: list[list[State]] = []
        self._changed = False
        self._found = torch.empty(0)

    def update(self, statistic: Statistic, rows: slice, global_seed: int = 0) -> State:
        """Return the state of some images, with the global generator at a seed."""
        rows = rows if "images" in statistic.reads else slice(0)
        batch = Batch(self._images[rows], self._labels[rows], range(self._ranking.layer.width), self._replica)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            state = statistic.update(batch)
        if not isinstance(state, Mapping) or not state or not all(isinstance(each, Tensor) for each in state.values()):
            raise BrokenContractError(f"update returns {type(state).__name__}, not tensors by name")
        return {name: array.cpu() for name, array in state.items()}

    def of_shards(self, global_seed: int = 0) -> list[list[State]]:
        """Return the states of each statistic, shard by shard."""
        n = len(self._images)
        cuts = [slice(n * shard // SHARDS, n * (shard + 1) // SHARDS) for shard in range(SHARDS)]
        return [
            [self.update(each, rows, global_seed) for rows in (cuts if "images" in each.reads else cuts[:1])]
            for each in self._ranking.statistics()
        ]

    def settings(self) -> Found:
        try:
            content_hash(self._ranking.options)
        except (TypeError, ValueError) as error:
            raise BrokenContractError(f"its fields must be numbers, texts, true or false: {error}") from None
        names = self._ranking.setting_names()
        found = ", ".join(f"{name}={getattr(self._ranking, name)!r}" for name in names) or "none"
        return "ok", f"{type(self._ranking).__name__}: {found}"

    def states(self) -> Found:
        before = condition(self._replica.model)
        self._states = self.of_shards()
        self._changed = condition(self._replica.model) != before
        arrays = [f"{name} {list(array.shape)}" for states in self._states for name, array in states[0].items()]
        return "ok", ", ".join(arrays) or "none: it reads nothing"

    def model(self) -> Found:
        if self._changed:
            raise BrokenContractError("update changes the model's weights, mode or hooks; leave it as it is")
        return "ok", "weights, mode and hooks stay as they are"

    def seed(self) -> Found:
        again = self.of_shards(global_seed=1)
        for before, now in zip(self._states, again, strict=True):
            for one, other in zip(before, now, strict=True):
                _require_alike(
                    one, other, "update gives two states for one shard; let it draw nothing, and keep nothing"
                )
        return "ok", "two states of one shard are equal"

    def storage(self) -> Found:
        for states in self._states:
            for state in states:
                for name, array in arrays_of(array_rows("key", dict(state))).items():
                    if not torch.equal(array.nan_to_num(), state[name].nan_to_num()):
                        raise BrokenContractError(f"the array {name} comes back from the catalog as another")
        return "ok", "the same when read back"

    def merge(self) -> Found:
        for statistic, states in zip(self._ranking.statistics(), self._states, strict=True):
            at_once = statistic.merge(states)
            if set(at_once) != set(states[0]):
                raise BrokenContractError(f"merge must return the arrays of a state, {', '.join(sorted(states[0]))}")
            if len(states) < SHARDS:
                continue
            for groups in ((states[:1], states[1:]), (states[:2], states[2:]), (states[:3], states[3:])):
                merged = statistic.merge([statistic.merge(group) for group in groups])
                _require_alike(at_once, merged, "states merged in two groups give another state than all at once")
        return "ok", f"{SHARDS} shards at once, or in two groups: the same state"

    def scores(self) -> Found:
        expected = [len(self._ranking.class_names), self._ranking.layer.width]
        scores = self._scores(self._states)
        if not isinstance(scores, Tensor) or not scores.is_floating_point() or list(scores.shape) != expected:
            came = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise BrokenContractError(f"compute returns {came}, not float scores {expected}, [classes, neurons]")
        wrong = int((~torch.isfinite(scores)).sum())
        if wrong:
            raise BrokenContractError(f"{wrong} of {scores.numel()} scores are NaN or infinite")
        if not _alike({"scores": scores}, {"scores": self._scores(self._states, global_seed=1)}):
            raise BrokenContractError("compute gives two rankings of one state; draw from `self.seed`, with uses_seed")
        self._found = scores
        constant = int((scores == scores[:, :1]).all(dim=1).sum())
        found = f"{scores.dtype} {list(scores.shape)}, {scores.min():.3g} to {scores.max():.3g}"
        if constant:
            return "warning", f"{found}; all neurons of {constant} classes have one score"
        return "ok", found

    def _scores(self, states: Sequence[Sequence[State]], global_seed: int = 0) -> Tensor:
        merged = [each.merge(list(own)) for each, own in zip(self._ranking.statistics(), states, strict=True)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            return self._ranking.scores(merged)

    def shards(self) -> Found:
        whole = [[self.update(each, slice(None))] for each in self._ranking.statistics()]
        difference = float((self._scores(whole) - self._found).abs().max())
        same = _alike({"scores": self._scores(whole)}, {"scores": self._found})
        return ("ok" if same else "warning"), f"scores of one shard and of {SHARDS} differ by {difference:.2g}"


def _require_alike(one: State, other: State, otherwise: str) -> None:
    if not _alike(one, other):
        raise BrokenContractError(otherwise)


def _alike(one: State, other: State) -> bool:
    """Return whether two states are equal up to rounding; NaN equals NaN."""
    return set(one) == set(other) and all(
        array.shape == other[name].shape
        and torch.allclose(
            array.double(),
            other[name].double(),
            rtol=ROUNDING,
            atol=ROUNDING * float(array.double().abs().nan_to_num().max()) if array.numel() else 0.0,
            equal_nan=True,
        )
        for name, array in one.items()
    )
