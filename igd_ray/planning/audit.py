"""The audit: adaptive attacks on one defense, each on the images that all earlier attacks left robust."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from igd_ray.attacks.adaptive.warm_start import TRANSFER, WarmStartedAttack
from igd_ray.attacks.registry import NamedAttack, giving, parse_attack
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.planning.base_attacks import FIRST_STAGE, BaseAttacks
from igd_ray.protocol import attack_order
from igd_ray.units.attack import AttackUnit, Start
from igd_ray.units.base import Shard
from igd_ray.units.judged import JudgedUnit


@dataclass(frozen=True)
class AuditPlanner:
    """Plans the adaptive attacks on defenses.

    Attributes:
        base: the attacks on the base model, whose points the adaptive ones start from.
        judge_draws: as in `AttackUnit`.
        source: has a unit computed, whose points are read, and returns it.
    """

    base: BaseAttacks
    judge_draws: int
    source: Callable[[AttackUnit], AttackUnit]

    def units(
        self,
        defense: DefenseSpec,
        audits: Sequence[NamedAttack],
        before: Sequence[JudgedUnit],
        shard: Shard,
    ) -> list[tuple[NamedAttack, AttackUnit]]:
        """Return a unit for each of `audits`, those first whose points others may start from.

        Args:
            defense: what is attacked.
            audits: those that fit it, at least one.
            before: the other attacks on it: the images that they broke are skipped, and their points are starts, too.
            shard: the images.
        """
        transfer = self.source(self.base.unit(parse_attack(FIRST_STAGE), shard))
        starts = {start.name: start for start in _kept(TRANSFER, transfer)}
        known = {(start.unit_key, start.point) for start in starts.values()}
        for earlier in before:
            for start in _kept(earlier.attack.label, earlier.points_unit):
                if start[1:] not in known:
                    starts[start.name] = start
                    known.add(start[1:])
        after = tuple(dict.fromkeys(unit.key for unit in before))
        given = {_gives(attack) for attack in audits}
        for name in dict.fromkeys(source for attack in audits for source in _sources(attack)):
            # An attack that is not asked for, but that others start from.
            if name not in starts and name not in given and (giver := giving(name)) is not None:
                starts[name] = _returned(name, self.source(self._unit(defense, giver, shard, after, starts)))
        planned = []
        for attack in sorted(audits, key=lambda attack: attack_order(attack.label)):
            unit = self._unit(defense, attack, shard, after, starts)
            # Of several budgets, the points of the first are those that others start from.
            gives = _gives(attack)
            name = gives if gives is not None and gives not in starts else attack.label
            starts[name] = _returned(name, unit)
            planned.append((attack, unit))
            after = (unit.key,)
        return planned

    def _unit(
        self,
        defense: DefenseSpec,
        attack: NamedAttack,
        shard: Shard,
        after: tuple[str, ...],
        starts: dict[str, Start],
    ) -> AttackUnit:
        unit = self.base.on(defense, attack, shard, self.judge_draws)
        fitted = unit.attack
        if isinstance(fitted.algorithm, WarmStartedAttack):
            fitted = fitted.of(fitted.algorithm.from_points_of(starts))
        return replace(unit, attack=fitted, after=after, starts=tuple(starts[name] for name in _sources(fitted)))


def _returned(name: str, unit: AttackUnit) -> Start:
    """Return the first point of `unit` as a start called `name`."""
    return _kept(name, unit)[0]


def _kept(name: str, unit: JudgedUnit) -> list[Start]:
    """Return the points of `unit` as starts: the first one called `name`, any other with its own name behind that."""
    assert unit.attack.algorithm is not None
    first, *others = unit.attack.algorithm.point_names
    return [Start(name, unit.key, first), *(Start(f"{name}/{other}", unit.key, other) for other in others)]


def _sources(attack: NamedAttack) -> Sequence[str]:
    """Return the names of the points that `attack` starts from."""
    return attack.algorithm.sources if isinstance(attack.algorithm, WarmStartedAttack) else ()


def _gives(attack: NamedAttack) -> str | None:
    """Return the name under which others start from the points of `attack`."""
    return None if attack.registration is None else attack.registration.gives
