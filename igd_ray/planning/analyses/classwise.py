"""Class by class: whom a defense helps, and whom it does not (the paper's table 11)."""

from igd_ray.config import AnalyzeSettings
from igd_ray.planning.analyses.base import Analysis, AnalysisPlan, base_attacks, register
from igd_ray.planning.defenses import needed_defenses
from igd_ray.planning.evaluation import plan_attacks
from igd_ray.planning.workspace import Workspace
from igd_ray.units.base import Shard
from igd_ray.units.judged import points_to_save


@register
class Classwise(Analysis):
    """Clean and robust accuracy of each class, in the worst case over the attacks."""

    name = "classwise"
    about = "clean and robust accuracy of each class, best and worst"
    query = "per_class"
    attacks = ("aa",)

    def plan(self, workspace: Workspace[AnalyzeSettings]) -> AnalysisPlan:
        """Plan the attacks on the defenses, which an evaluation of them shares."""
        attacks = self.asked_attacks(workspace.settings)
        needed = needed_defenses(workspace)
        plan = plan_attacks(
            needed.defenses,
            attacks,
            workspace.shards("test", workspace.settings.shard_size),
            base=base_attacks(workspace, attacks),
            inspected=Shard.of("test", workspace.test, 0, 1),
            judge_draws=workspace.settings.judge_draws,
            save_points=points_to_save(workspace.settings.save_points, workspace.example[0]),
        )
        return AnalysisPlan(self.name, needed, plan.cells, plan.sources, notes=(*needed.notes,))
