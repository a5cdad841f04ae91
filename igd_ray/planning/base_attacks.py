"""Attacks on the base model: each a unit that every defense, in any later run, takes its transfers from.

They cover all images whatever is evaluated beside them, so that no run computes again what another has. A transfer may
also come from another model, which is then attacked as a base model is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from igd_ray.attacks.base import Attack
from igd_ray.attacks.registry import NamedAttack, parse_attack
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.protocol import NONE
from igd_ray.threat import ThreatModel
from igd_ray.units.attack import AttackUnit
from igd_ray.units.base import Shard

# The attack whose trajectories are those of AutoAttack's first stage, and AutoAttack, whose seed it takes.
FIRST_STAGE, AUTO_ATTACK = "tr-apgd-ce", "aa"


@dataclass(frozen=True)
class BaseAttacks:
    """The units that attack the base model.

    Attributes:
        model_id: its fingerprint.
        num_classes: how many classes it has.
        is_random: whether two of its passes differ: then gradients must be averaged, and no work is shared.
        threat, seed, attack_seed: as in `AttackUnit`.
        judge_draws: fresh evaluations of each point, where the model is random.
        label: what the model is called as a target.
        others: the same for each other model that transfers come from, by its spec.
    """

    model_id: str
    num_classes: int
    is_random: bool
    threat: ThreatModel
    seed: int
    attack_seed: int | None = None
    judge_draws: int = 1
    label: str = NONE
    others: Mapping[str, "BaseAttacks"] = field(default_factory=dict)

    @property
    def named(self) -> str:
        """The model, for people."""
        return f"{self.label} ({self.model_id})"

    def unit(self, attack: NamedAttack, shard: Shard) -> AttackUnit:
        """Return the unit of `attack` over `shard`; a direct attack and a transfer are one."""
        if attack.source_model is not None:
            return self.others[attack.source_model].unit(replace(attack, source_model=None), shard)
        plain = self._plain(attack, shard)
        algorithm = plain.attack.algorithm
        if algorithm is None or self.is_random:
            return plain
        if plain.key == self._plain(parse_attack(FIRST_STAGE), shard).key:
            # AutoAttack's seed, planned or not, and never the other way: its verdicts are what they are without this.
            return replace(plain, attack_seed=self._plain(parse_attack(AUTO_ATTACK), shard).attack_seed_used)
        if algorithm.continues is not None:
            first_stage = self.unit(parse_attack(algorithm.continues), shard)
            return replace(plain, attack_seed=plain.attack_seed_used, first_stage=first_stage.key)
        return plain

    def on(self, defense: DefenseSpec, attack: NamedAttack, shard: Shard, judge_draws: int) -> AttackUnit:
        """Return the unit of `attack` on a defense of this model over `shard`; it shares nothing with others."""
        fitted = attack.of(self.fitted(attack.algorithm, defense_is_random=defense.is_random))
        return AttackUnit(defense, fitted, self.threat, shard, self.seed, self.attack_seed, judge_draws)

    def needed_by(self, unit: AttackUnit) -> tuple[AttackUnit, ...]:
        """Return the units that `unit`, one of these, reads."""
        algorithm = unit.attack.algorithm
        if unit.first_stage is None or algorithm is None or algorithm.continues is None:
            return ()
        attacked = next((each for each in self.others.values() if each.model_id == unit.defense.model_id), self)
        return (attacked.unit(parse_attack(algorithm.continues), unit.shard),)

    def fitted(self, algorithm: Attack | None, *, defense_is_random: bool = False) -> Attack | None:
        """Return `algorithm` for this model's classes and, where nothing is random, with equal gradients taken once."""
        if algorithm is None:
            return None
        algorithm = algorithm.for_classes(self.num_classes)
        return algorithm if self.is_random or defense_is_random else algorithm.collapsed()

    def _plain(self, attack: NamedAttack, shard: Shard) -> AttackUnit:
        """Return the unit that shares nothing with others."""
        registration, algorithm = attack.registration, attack.algorithm
        if registration is not None and registration.on_deterministic is not None and not self.is_random:
            # On a deterministic model the averaged gradients are those of the transfer, which keeps more points.
            budget = getattr(algorithm, str(registration.budget))
            suffix = "" if budget == registration.published else f"-{budget}"
            algorithm = parse_attack(f"{registration.on_deterministic}{suffix}").algorithm
        draws = self.judge_draws if self.is_random else 1
        return self.on(DefenseSpec(self.label, self.model_id), attack.of(algorithm), shard, draws)
