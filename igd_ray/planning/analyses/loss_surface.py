"""The loss around images, along the sign of the gradient and an orthogonal direction (the paper's figure 8)."""

from igd_ray.config import AnalyzeSettings
from igd_ray.errors import InputError
from igd_ray.planning.analyses.base import Analysis, AnalysisPlan, register
from igd_ray.planning.defenses import needed_defenses
from igd_ray.planning.workspace import Workspace
from igd_ray.threat import Norm
from igd_ray.units.analyses.loss_surface import LossSurfaceUnit


@register
class LossSurface(Analysis):
    """The mean cross-entropy of each defense on a plane through each image."""

    name = "loss-surface"
    about = "the loss of --defenses on a plane through each image"
    query = "loss_surface"
    settings = frozenset({"grid"})

    def plan(self, workspace: Workspace[AnalyzeSettings]) -> AnalysisPlan:
        """Plan a unit for each defense and shard."""
        settings = workspace.settings
        if settings.norm is not Norm.LINF:
            raise InputError(f"a loss surface spans the cube of an infinity norm; leave out --norm {settings.norm}")
        needed = needed_defenses(workspace)
        units = [
            LossSurfaceUnit(defense, settings.threat.epsilon, settings.grid, shard, settings.seed)
            for defense in needed.defenses
            for shard in workspace.shards("test", settings.shard_size)
        ]
        return AnalysisPlan(self.name, needed, measurements=tuple(units), notes=(*needed.notes,))
