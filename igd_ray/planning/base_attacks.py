"""Attacks on the base model: each a unit that every defense, in any later run, takes its transfers from.

They cover all images whatever is evaluated beside them, so that no run computes again what another has.
"""

from dataclasses import dataclass, replace

from igd_ray.attacks.auto_attack import AutoAttack
from igd_ray.attacks.base import Attack
from igd_ray.attacks.registry import NamedAttack, parse_attack
from igd_ray.attacks.transfer import TransferEOT
from igd_ray.defenses.specs import NONE, DefenseSpec
from igd_ray.threat import ThreatModel
from igd_ray.units.attack import AttackUnit
from igd_ray.units.base import Shard

# AutoAttack, and the attack whose trajectories are those of its first stage.
AUTO_ATTACK, FIRST_STAGE = parse_attack("aa"), parse_attack("tr-apgd-ce")

# On a deterministic model the averaged gradients of the first are those of the second, which keeps more points.
AVERAGED, COLLAPSED = parse_attack("apgd-eot"), parse_attack("tr-apgd-eot")


@dataclass(frozen=True)
class BaseAttacks:
    """The units that attack the base model.

    Attributes:
        model_id: its fingerprint.
        num_classes: how many classes it has.
        is_random: whether two of its passes differ: then gradients must be averaged, and no work is shared.
        threat, seed, attack_seed: as in `AttackUnit`.
        judge_draws: fresh evaluations of each point, where the model is random.
    """

    model_id: str
    num_classes: int
    is_random: bool
    threat: ThreatModel
    seed: int
    attack_seed: int | None = None
    judge_draws: int = 1

    def unit(self, label: NamedAttack, shard: Shard) -> AttackUnit:
        """Return the unit of `label` over `shard`; a direct attack and a transfer are one."""
        plain = self._plain(label, shard)
        attack = plain.attack.algorithm
        if attack is None or self.is_random:
            return plain
        first_stage = self._plain(FIRST_STAGE, shard)
        if plain.key == first_stage.key:
            # AutoAttack's seed, planned or not, and never the other way: its verdicts are what they are without this.
            return replace(plain, attack_seed=self._plain(AUTO_ATTACK, shard).attack_seed_used)
        if isinstance(attack, AutoAttack) and attack.version == "standard":
            return replace(plain, attack_seed=plain.attack_seed_used, first_stage=self.unit(FIRST_STAGE, shard).key)
        return plain

    def needed_by(self, unit: AttackUnit) -> tuple[AttackUnit, ...]:
        """Return the units that `unit`, one of these, reads."""
        return () if unit.first_stage is None else (self.unit(FIRST_STAGE, unit.shard),)

    def fitted(self, attack: Attack | None, *, defense_is_random: bool = False) -> Attack | None:
        """Return `attack` for this model's classes and, where nothing is random, with equal gradients computed once."""
        if attack is None:
            return None
        attack = attack.for_classes(self.num_classes)
        return attack if self.is_random or defense_is_random else attack.collapsed()

    def _plain(self, label: NamedAttack, shard: Shard) -> AttackUnit:
        """Return the unit that shares nothing with others."""
        attack = label.algorithm
        if label.label == AVERAGED.label and not self.is_random:
            attack = COLLAPSED.algorithm
        if label.label == COLLAPSED.label and self.is_random:
            attack = TransferEOT(collapse=False)
        base = DefenseSpec(NONE, self.model_id)
        fitted = replace(label, algorithm=self.fitted(attack))
        draws = self.judge_draws if self.is_random else 1
        return AttackUnit(base, fitted, self.threat, shard, self.seed, self.attack_seed, draws)
