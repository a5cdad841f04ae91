"""What defenses and rankings cost, as multiples of one forward pass (the paper's table 12 and its "2 x")."""

from igd_ray.config import AnalyzeSettings
from igd_ray.planning.analyses.base import Analysis, AnalysisPlan, register
from igd_ray.planning.defenses import needed_defenses
from igd_ray.planning.workspace import Workspace
from igd_ray.units.analyses.cost import CostUnit
from igd_ray.units.base import Unit


@register
class Cost(Analysis):
    """Times of inference and ranking, each taken in turn with the base model's forward pass over the same images."""

    name = "cost"
    about = "time of inference and ranking of --defenses, in forward passes of the base model"
    query = "relative_cost"
    settings = frozenset({"repetitions"})

    def plan(self, workspace: Workspace[AnalyzeSettings]) -> AnalysisPlan:
        """Plan a unit for each defense, and one for each ranking that reads images, on one batch each."""
        settings = workspace.settings
        needed = needed_defenses(workspace)
        batch = workspace.shards("test", settings.shard_size)[0]
        units: list[Unit] = [
            CostUnit(defense.label, defense, (), batch, settings.repetitions) for defense in needed.defenses
        ]
        for method, ranking in needed.rankings.items():
            if ranking.shards:
                first = ranking.shards[0]
                of_batch = tuple(unit for unit in ranking.units if unit.shard == first)
                units.append(CostUnit(method, None, of_batch, first, settings.repetitions))
        return AnalysisPlan(self.name, needed, measurements=tuple(units), notes=(*needed.notes,))
