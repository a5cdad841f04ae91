"""What separate runs would compute, for the comparison of a dry run: every attack as published, nothing shared."""

from collections.abc import Sequence
from dataclasses import replace

from igd_ray.attacks.registry import NamedAttack
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.planning.base_attacks import BaseAttacks
from igd_ray.protocol import TRANSFER_PREFIX
from igd_ray.units.attack import TransferUnit
from igd_ray.units.base import Shard
from igd_ray.units.judged import JudgedUnit


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
