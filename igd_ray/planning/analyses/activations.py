"""How activations change under attacks, in important and in unimportant neurons (the paper's figure 2 and table 7)."""

from igd_ray.attacks.registry import NamedAttack
from igd_ray.config import AnalyzeSettings
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError
from igd_ray.planning.analyses.base import Analysis, AnalysisPlan, base_attacks, register
from igd_ray.planning.defenses import needed_defenses
from igd_ray.planning.workspace import Workspace
from igd_ray.units.analyses.activations import ActivationChangeUnit
from igd_ray.units.attack import AttackUnit
from igd_ray.units.base import Shard


@register
class Activations(Analysis):
    """The change of mean activations of the base model, successful and unsuccessful attacks apart."""

    name = "activations"
    about = "change under attacks of the base model's activations, for the masks of --defenses"
    query = "activations"
    attacks = ("pgd", "gama-pgd")

    def plan(self, workspace: Workspace[AnalyzeSettings]) -> AnalysisPlan:
        """Plan the attacks on the base model, and for each defense with masks the comparison of what they change."""
        attacks = self.asked_attacks(workspace.settings)
        needed = needed_defenses(workspace)
        masked = [defense for defense in needed.defenses if defense.ranking_id is not None and defense.k is not None]
        if not masked:
            raise InputError("activations needs masks, which say whose neurons are whose; add --defenses loir-16")
        base = base_attacks(workspace, attacks)
        sources: dict[str, AttackUnit] = {}
        measurements = []
        for shard in workspace.shards("test", workspace.settings.shard_size):
            for attack in attacks:
                source = base.unit(attack, shard)
                for unit in (*base.needed_by(source), source):
                    sources[unit.key] = unit
                measurements += [_unit(defense, attack, source, shard) for defense in masked]
        return AnalysisPlan(
            self.name, needed, sources=tuple(sources.values()), measurements=tuple(measurements), notes=(*needed.notes,)
        )


def _unit(defense: DefenseSpec, attack: NamedAttack, source: AttackUnit, shard: Shard) -> ActivationChangeUnit:
    assert defense.layer is not None
    assert defense.ranking_id is not None
    assert defense.k is not None
    return ActivationChangeUnit(
        defense.model_id, defense.layer, defense.label, defense.ranking_id, defense.k, attack.label, source.key, shard
    )
