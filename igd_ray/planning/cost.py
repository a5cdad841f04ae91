"""What a plan would cost before it runs, in units, passes at most and time, and the order of units that follows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from igd_ray.attacks.base import QUERY
from igd_ray.catalog import Catalog
from igd_ray.planning.base_attacks import FIRST_STAGE
from igd_ray.units.base import Passes, Unit, is_done, reproducible
from igd_ray.units.judged import JudgedUnit

# Images that the timed passes run on.
TIMED_IMAGES = 64


@dataclass(frozen=True)
class Cost:
    """Upper bounds for some units.

    Attributes:
        what: the kind of unit, with the defense and attack where it has them.
        units, done: how many, and how many of them are committed.
        forwards, backwards: passes of one image through the base model, for the units not done.
    """

    what: str
    units: int
    done: int
    forwards: int
    backwards: int


def costs(catalog: Catalog, units: Sequence[Unit], *, num_classes: int) -> list[Cost]:
    """Return the costs of `units`, kind by kind, in order of appearance."""
    kinds: dict[str, list[Unit]] = {}
    for unit in {unit.key: unit for unit in units}.values():
        kinds.setdefault(unit.title, []).append(unit)
    rows = []
    for what, members in kinds.items():
        waiting = [unit for unit in members if not is_done(catalog, unit)]
        passes = [bound(unit, num_classes) for unit in waiting]
        rows.append(
            Cost(
                what,
                len(members),
                len(members) - len(waiting),
                forwards=sum(most.forwards for most in passes),
                backwards=sum(most.backwards for most in passes),
            )
        )
    return rows


def bound(unit: Unit, num_classes: int) -> Passes:
    """Return upper bounds of a unit's passes that hold however often noise has its attack repeated."""
    once, repeated = unit.most_passes(num_classes), unit.most_repeated_passes
    return Passes(once.forwards + repeated.forwards, once.backwards + repeated.backwards)


def seconds_per_pass(model: nn.Module, example: torch.Tensor) -> tuple[float, float]:
    """Time one image's forward and backward pass, in a batch, with a worker's number of threads.

    Args:
        model: the base model.
        example: one image, [1, C, H, W].
    """
    images = example.expand(TIMED_IMAGES, -1, -1, -1).contiguous()
    with reproducible():
        with torch.no_grad():
            model(images)
            started = time.perf_counter()
            model(images)
            forward = time.perf_counter() - started
        points = images.clone().requires_grad_()
        started = time.perf_counter()
        torch.autograd.grad(model(points).sum(), [points])
        both = time.perf_counter() - started
    return forward / TIMED_IMAGES, max(both - forward, 0.0) / TIMED_IMAGES


def chain_order(unit: JudgedUnit) -> tuple[bool, int, str]:
    """Return the order of a cascade: by cost, but queries last, as what they alone break tells of masked gradients."""
    queries_only = unit.ways == {QUERY}
    return queries_only, _cost(unit), unit.attack.label


def priority(unit: JudgedUnit) -> tuple[int, int]:
    """Return the order in which units start: base attacks, transfers, direct attacks, audits; the dearest first."""
    if unit.is_transfer:
        return 2, 0
    if unit.attack.audits:
        return 4, 0
    if not unit.defense.is_base_model:
        return 3, -_cost(unit)
    return (0, 0) if unit.attack.algorithm is None or unit.attack.label == FIRST_STAGE else (1, -_cost(unit))


def _cost(unit: JudgedUnit) -> int:
    """Return about how many passes a unit takes: the number of classes hardly orders them."""
    return sum(unit.most_passes(num_classes=10))
