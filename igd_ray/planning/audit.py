"""The audit: adaptive attacks on one defense, each on the images that all before it left standing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from igd_ray.attacks.adaptive.best_start import BestStartAPGD
from igd_ray.attacks.adaptive.joint_loss import JointLossAPGD
from igd_ray.attacks.adaptive.line import TRANSFER, WHITE_BOX, LineAPGD
from igd_ray.attacks.adaptive.warm_start import StartedAttack
from igd_ray.attacks.registry import NamedAttack, parse_attack
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.planning.base_attacks import FIRST_STAGE, BaseAttacks
from igd_ray.protocol import AUDIT_ATTACKS
from igd_ray.units.attack import AttackUnit, Start
from igd_ray.units.base import Shard
from igd_ray.units.judged import JudgedUnit

# The attack whose points are the white-box ends of lines: it follows gradients through both passes.
WHITE_BOX_ATTACK = parse_attack("audit-joint-loss")


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
            audits: those that fit it.
            before: the other attacks on it: the images that they broke are skipped, and their points are starts, too.
            shard: the images.
        """
        if not audits:
            return []
        transfer = self.source(self.base.unit(FIRST_STAGE, shard))
        starts = {start.name: start for start in _kept(TRANSFER, transfer)}
        known = {(start.unit_key, start.point) for start in starts.values()}
        for earlier in before:
            for start in _kept(earlier.attack.label, earlier.points_unit):
                if start[1:] not in known:
                    starts[start.name] = start
                    known.add(start[1:])
        after = tuple(dict.fromkeys(unit.key for unit in before))
        kinds = {type(label.algorithm) for label in audits}
        if LineAPGD in kinds and JointLossAPGD not in kinds:
            white_box = self.source(self._unit(defense, WHITE_BOX_ATTACK, shard, after, starts))
            starts[WHITE_BOX] = _returned(WHITE_BOX, white_box)
        planned = []
        for label in sorted(audits, key=lambda label: (_place(label), label.label)):
            unit = self._unit(defense, label, shard, after, starts)
            # The lines' white-box ends are the points of the first budget.
            is_white_box = isinstance(label.algorithm, JointLossAPGD) and WHITE_BOX not in starts
            name = WHITE_BOX if is_white_box else label.label
            starts[name] = _returned(name, unit)
            planned.append((label, unit))
            after = (unit.key,)
        return planned

    def _unit(
        self,
        defense: DefenseSpec,
        label: NamedAttack,
        shard: Shard,
        after: tuple[str, ...],
        starts: dict[str, Start],
    ) -> AttackUnit:
        attack = self.base.fitted(label.algorithm, defense_is_random=defense.is_random)
        if isinstance(attack, BestStartAPGD):
            attack = attack.with_sources(list(starts))
        taken = tuple(starts[name] for name in attack.sources) if isinstance(attack, StartedAttack) else ()
        base = self.base
        return AttackUnit(
            defense,
            replace(label, algorithm=attack),
            base.threat,
            shard,
            base.seed,
            base.attack_seed,
            self.judge_draws,
            after=after,
            starts=taken,
        )


def _returned(name: str, unit: AttackUnit) -> Start:
    """Return the first point of `unit` as a start called `name`."""
    return _kept(name, unit)[0]


def _kept(name: str, unit: JudgedUnit) -> list[Start]:
    """Return the points of `unit` as starts: the first one called `name`, any other with its own name behind that."""
    assert unit.attack.algorithm is not None
    first, *others = unit.attack.algorithm.point_names
    return [Start(name, unit.key, first), *(Start(f"{name}/{other}", unit.key, other) for other in others)]


def _place(label: NamedAttack) -> int:
    return next(place for place, name in enumerate(AUDIT_ATTACKS) if label.label.startswith(name))
