"""What a plan would cost before it runs: units, passes at most and time, beside what separate runs would compute."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from igd_ray.attacks.registry import NamedAttack
from igd_ray.catalog import Catalog
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.planning.attack_units import BaseAttacks
from igd_ray.protocol import TRANSFER_PREFIX
from igd_ray.units.attack import TransferUnit
from igd_ray.units.base import Passes, Shard, Unit, is_done, reproducible
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


def naive_units(
    defenses: Sequence[DefenseSpec],
    attacks: Sequence[NamedAttack],
    shards: Sequence[Shard],
    *,
    base: BaseAttacks,
    judge_draws: int = 1,
) -> list[JudgedUnit]:
    """Return what separate runs would compute for each defense: every attack as published, nothing shared.

    On the base model an attack and its transfer are one in any case. Not to be run: many of these have the same key.
    They say what a plan saves.
    """
    labels = {attack.label for attack in attacks}
    others = {spec: replace(other, is_random=True) for spec, other in base.others.items()}
    separate = replace(base, is_random=True, others=others)
    units: list[JudgedUnit] = []
    for defense in defenses:
        for attack in (attack for attack in attacks if not attack.audits and attack.aims_at(defense.label)):
            if defense.is_base_model and attack.transfer and attack.label.removeprefix(TRANSFER_PREFIX) in labels:
                continue
            for shard in shards:
                on_base = separate.unit(attack, shard)
                if attack.transfer and attack.source_model is None and defense.is_base_model:
                    units.append(on_base)
                elif attack.transfer:
                    units += [on_base, TransferUnit(defense, attack, on_base, judge_draws)]
                else:
                    units.append(replace(on_base, defense=defense, judge_draws=judge_draws))
    return units
