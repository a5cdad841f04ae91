"""A ranking in a file of the user's: loaded under a name of theirs, and tried out before any work."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pydantic
import torch
from torch import Tensor, nn

from igd_ray.errors import InputError, did_you_mean
from igd_ray.identity import require_plain
from igd_ray.models.fingerprint import model_fingerprint
from igd_ray.models.sources import code_digest, contained, import_sources
from igd_ray.ranking.base import RANKINGS, Batch, Ranking, Replica, State, Statistic

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(-[A-Za-z0-9_]*[A-Za-z_][A-Za-z0-9_]*)*")

# The files of the classes registered here. Modules that a program imports itself are installed where units run.
FILES: dict[type[Ranking], Path] = {}

# A ranking is tried out on the first image of each class, of at most so many classes.
TRIED_IMAGES = 64

# How far two states of one batch may be off, relative to their values: sums in another order.
STATE_ROUNDING = 1e-5


def split_method(entry: str) -> tuple[str, str | None]:
    """Return the name and the file spec of a method: "loir" has none, "mine=FILE.py:CLASS" has one.

    >>> split_method("mine=folder/file.py:Mine")
    ('mine', 'folder/file.py:Mine')
    """
    name, equals, spec = entry.partition("=")
    return name, spec if equals else None


def register_files(entries: Sequence[str], arguments: Mapping[str, object], *, taken: Collection[str]) -> None:
    """Register the rankings among `entries` that are in files, and check that all `arguments` are settings of theirs.

    A name that an earlier file has is given to the new one.

    Args:
        entries: names of methods, or NAME=FILE.py:CLASS.
        arguments: by "NAME.SETTING".
        taken: names that labels of defenses have, which would read otherwise.

    Raises:
        InputError: if a name cannot be that of a ranking, a file holds no such class, or an argument does not fit.
    """
    files = {name: spec for name, spec in map(split_method, entries) if spec is not None}
    for name, spec in files.items():
        require_free_name(name, f"--method {name}={spec}", taken)
        RANKINGS[name] = _load(spec)
        FILES[RANKINGS[name]] = Path(spec.rpartition(":")[0]).resolve()
    for argument, value in arguments.items():
        name = argument.partition(".")[0]
        if name not in files:
            raise InputError(
                f"--method-arg {argument}: expected NAME.SETTING with a ranking of --method NAME=FILE.py:CLASS; "
                "the package's own have flags of their own"
            )
        own_settings(name, RANKINGS[name], {argument: value})


def require_free_name(name: str, what: str, taken: Collection[str]) -> None:
    """Check that a ranking of the user's own may be called `name`.

    Args:
        name: of a ranking.
        what: how errors call it.
        taken: names that labels of defenses have, which would read otherwise.

    Raises:
        InputError: if it may not.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"{what}: expected a name of letters, digits, _ and - that does not end in a number, as loir-50 does; "
            "choose another"
        )
    built_in = code_digest(RANKINGS[name]) is None if name in RANKINGS else name in taken
    if built_in:
        raise InputError(f"{what}: {name!r} is a name of this package; choose another")


def _load(spec: str) -> type[Ranking]:
    file, colon, name = spec.rpartition(":")
    path = Path(file).resolve()
    if not colon or path.suffix != ".py":
        raise InputError(f"a ranking of your own is given as NAME=FILE.py:CLASS, not {spec!r}")
    if not path.is_file():
        raise InputError(f"ranking {spec!r}: no file at {path}")
    with contained(f"ranking file {path.name}"):
        module = import_sources(path)
    found = getattr(module, name, None)
    known = [each for each, value in vars(module).items() if isinstance(value, type) and issubclass(value, Ranking)]
    if found is None:
        raise InputError(f"{path.name} has no class {name!r}{did_you_mean(name, known)}")
    if callable(found) and not isinstance(found, type):
        raise InputError(
            f"{path.name}: {name} is a function, such as the factory of a defense, and no ranking; igd search takes "
            "that as --defense NAME=FILE.py:factory"
        )
    return checked_class(found, f"{path.name}: {name}")


def checked_class(found: object, what: str) -> type[Ranking]:
    """Return `found`, which errors call `what`, if it is a class of rankings.

    Raises:
        InputError: if it is not, or lacks a method.
    """
    if not (isinstance(found, type) and issubclass(found, Ranking)):
        raise InputError(f"{what} must be a subclass of igd_ray.ranking.StatisticRanking or Ranking")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise InputError(f"{what} lacks {', '.join(missing)}; define it")
    return found


def own_settings(method: str, ranking: type[Ranking], given: Mapping[str, object]) -> dict[str, Any]:
    """Return the settings of `ranking` that are `given` as "method.name", converted to the types of its fields.

    Raises:
        InputError: if it has no such setting, or the value is of another type.
    """
    settings = {}
    known = ranking.setting_names()
    hints = get_type_hints(ranking)
    for full_name, value in given.items():
        owner, _, name = full_name.partition(".")
        if owner != method:
            continue
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(
                f"--method-arg {full_name}: {method} has no such setting; {has}{did_you_mean(name, known)}"
            )
        try:
            settings[name] = pydantic.TypeAdapter(hints[name]).validate_python(value)
        except pydantic.ValidationError as error:
            reason = error.errors()[0]["msg"].lower()
            raise InputError(f"--method-arg {full_name}: {reason}, not {value!r}") from None
    return settings


def try_out(ranking: Ranking, images: Tensor, labels: Tensor, count: int, replica: Replica) -> None:
    """Compute a state of each statistic and the scores, as if all probe images were like these.

    Args:
        ranking: prepared.
        images, labels: some probe images; scores are computed only where they are of every class.
        count: how many probe images there are.
        replica: the models.

    Raises:
        InputError: if its code fails, exits, prints, changes the model, answers one batch in two ways, or returns
            something other than states and scores.
    """
    what = type(ranking).__qualname__
    try:
        require_plain(ranking.options)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    merged = []
    for statistic in ranking.statistics():
        neurons = statistic.neuron_ranges(ranking.layer.width)[0]
        own = slice(None) if "images" in statistic.reads else slice(0)
        batch = Batch(images[own], labels[own], neurons, replica)
        state = _updated(statistic, batch, f"{what}.update")
        if not _alike(state, _updated(statistic, batch, f"{what}.update")):
            raise InputError(
                f"{what}.update gives two states for one batch; let it draw nothing, and keep nothing between calls"
            )
        batches = max(1, math.ceil(count / max(1, len(images)))) if "images" in statistic.reads else 1
        with contained(f"{what}.merge"):
            merged.append(statistic.merge([state] * batches))
        if set(merged[-1]) != set(state):
            raise InputError(f"{what}.merge must return arrays of the names of a state, {', '.join(sorted(state))}")
    if "images" in ranking.reads and len(set(labels.tolist())) < len(ranking.class_names):
        return
    with contained(f"{what}.compute"):
        scores = ranking.scores(merged)
    width = len(neurons) if merged else ranking.layer.width
    require_scores(scores, len(ranking.class_names), width, what)


def require_scores(scores: object, num_classes: int, width: int, what: str) -> None:
    """Check that `scores` is a real tensor [num_classes, width].

    Raises:
        InputError: saying what came.
    """
    if not isinstance(scores, Tensor) or not scores.is_floating_point() or list(scores.shape) != [num_classes, width]:
        came = f"{scores.dtype} {list(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"{what}.compute must return float scores [{num_classes}, {width}], not {came}")


def _updated(statistic: Statistic, batch: Batch, what: str) -> State:
    reads_model = "model" in statistic.reads
    before = _condition(batch.model) if reads_model else None
    with contained(what):
        state = statistic.update(batch)
    if not isinstance(state, Mapping) or not state or not all(isinstance(each, Tensor) for each in state.values()):
        raise InputError(f"{what} must return tensors by name, not {type(state).__name__}")
    if reads_model and before != _condition(batch.model):
        raise InputError(f"{what} changes the model's weights or mode; leave it as it is")
    return {name: array.cpu() for name, array in state.items()}


def _condition(model: nn.Module) -> tuple[str, tuple[bool, ...]]:
    """Return what of `model` a ranking must leave alone: its weights and structure, and every module's mode."""
    return model_fingerprint(model), tuple(module.training for module in model.modules())


def _alike(one: State, other: State) -> bool:
    """Return whether two states are equal up to rounding; NaN equals NaN."""
    return set(one) == set(other) and all(
        array.shape == other[name].shape
        and torch.allclose(array.double(), other[name].double(), rtol=STATE_ROUNDING, atol=0, equal_nan=True)
        for name, array in one.items()
    )
