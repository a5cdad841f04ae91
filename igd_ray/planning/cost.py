"""What a plan would cost, before it runs: units, an upper bound of passes, and an estimate of the time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from igd_ray.attacks.auto_attack import AutoAttack
from igd_ray.attacks.base import MOST_LOOKS
from igd_ray.catalog import Catalog
from igd_ray.planning.search import ActivationUnit, NoisyLogitsUnit
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import Unit, is_done
from igd_ray.units.inspection import GradientCheckUnit, InspectionUnit, base_passes
from igd_ray.units.noise import NoiseUnit
from igd_ray.units.ranking import RankingUnit
from igd_ray.units.review import ReviewUnit
from igd_ray.units.threads import reproducible
from igd_ray.units.training import SodefEpochUnit

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
        kinds.setdefault(_what(unit), []).append(unit)
    rows = []
    for what, members in kinds.items():
        waiting = [unit for unit in members if not is_done(catalog, unit)]
        passes = [bound(unit, num_classes) for unit in waiting]
        rows.append(
            Cost(
                what,
                len(members),
                len(members) - len(waiting),
                forwards=sum(forwards for forwards, _ in passes),
                backwards=sum(backwards for _, backwards in passes),
            )
        )
    return rows


def bound(unit: Unit, num_classes: int) -> tuple[int, int]:
    """Return upper bounds of a unit's forward and backward passes of one image through the base model.

    Unlike `most_passes`, they hold however often noise spoils an attack's look at an image.
    """
    forwards, backwards = most_passes(unit, num_classes)
    if isinstance(unit, AttackUnit) and unit.attack.algorithm is not None and unit.defense.is_random:
        looks = (MOST_LOOKS - 1) * unit.attack.algorithm.wasted_queries
        more = base_passes(unit.defense, len(unit.shard.ids), looks, 0)
        return forwards + more[0], backwards + more[1]
    return forwards, backwards


def most_passes(unit: Unit, num_classes: int) -> tuple[int, int]:
    """Return the most passes, forward and backward, that a unit takes where every attack looks at an image once."""
    images = len(unit.shard.ids)
    if isinstance(unit, AttackUnit):
        attack = unit.attack.algorithm
        if unit.first_stage is not None and isinstance(attack, AutoAttack):
            nothing = torch.empty(0)
            attack = attack.continuing(nothing, nothing.bool())
        queries, gradients = attack.most_passes(num_classes) if attack else (0, 0)
        # The clean image, the attack's own look at each point kept, and the verdicts on them.
        return base_passes(unit.defense, images, queries + 1 + _points(unit) * (1 + unit.judge_draws), gradients)
    if isinstance(unit, TransferUnit):
        return base_passes(unit.defense, images, 1 + _points(unit) * unit.judge_draws, 0)
    if isinstance(unit, InspectionUnit):
        # Two looks at the images and their blends, one for the gradient, one at the range; two without noise.
        random, still = base_passes(unit.defense, images, 6, 1), base_passes(unit.defense.still(), images, 2, 0)
        return random[0] + still[0], random[1] + still[1]
    if isinstance(unit, NoiseUnit | GradientCheckUnit | ReviewUnit):
        return unit.most_passes(num_classes)
    if isinstance(unit, NoisyLogitsUnit):
        return images * unit.draws, 0
    if isinstance(unit, RankingUnit):
        return images * unit.statistic.forwards(unit.neurons), 0
    if isinstance(unit, SodefEpochUnit):
        return 0, 0  # no pass of the base model
    return images, 0


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


def _points(unit: AttackUnit | TransferUnit) -> int:
    """Return how many points of an image are judged: its clean version where nothing is attacked."""
    return unit.attack.algorithm.most_points if unit.attack.algorithm else 1


def _what(unit: Unit) -> str:
    if isinstance(unit, AttackUnit | TransferUnit):
        return f"{unit.attack.label} on {unit.defense.label}"
    if isinstance(unit, ActivationUnit) or (isinstance(unit, RankingUnit) and "model" in unit.statistic.reads):
        return f"{unit.kind} at {unit.layer.name}"
    return unit.kind
