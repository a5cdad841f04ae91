"""How much rankings agree: methods, layers of equal width, shares of the probe images, and models."""

from collections.abc import Mapping

from igd_ray.config import AnalyzeSettings
from igd_ray.defenses.specs import parse_defense
from igd_ray.errors import InputError
from igd_ray.models import Layer
from igd_ray.planning.analyses.base import Analysis, AnalysisPlan, register
from igd_ray.planning.analyses.sensitivity import on_share
from igd_ray.planning.rankings import RankedModel, RankingPlan, plan_ranking
from igd_ray.planning.workspace import Workspace
from igd_ray.ranking import GivenRanking
from igd_ray.units.ranking import read_ranking


@register
class Overlap(Analysis):
    """Spearman's correlation, rank-biased overlap and the Jaccard index at every k, for each class."""

    name = "overlap"
    about = "how much the rankings of --defenses, and those of --ranking, agree, class by class"
    query = "overlap"
    settings = frozenset({"vary"})

    def plan(self, workspace: Workspace[AnalyzeSettings]) -> AnalysisPlan:
        """Plan the rankings of the named defenses, at each varied layer and share of the probe images."""
        settings = workspace.settings
        others = [name for name in settings.varied if name not in ("layer", "probe-share")]
        if others:
            raise InputError(f"--vary {others[0]} changes no ranking; overlap varies layer or probe-share")
        methods = dict.fromkeys(
            label.method for label in map(parse_defense, settings.defenses) if label.method is not None
        )
        compared: dict[str, RankingPlan] = {}
        for method in methods:
            compared.update(_varied(workspace, str(method)))
        for ranking_id in settings.ranking:
            compared[ranking_id[:12]] = _of_any_model(workspace, ranking_id)
        _require_comparable(compared)
        return AnalysisPlan(self.name, compared=compared)


def _varied(workspace: Workspace[AnalyzeSettings], method: str) -> dict[str, RankingPlan]:
    """Return the rankings by `method`, by what they are called."""
    varied = workspace.settings.varied
    plans = {}
    for layer in varied.get("layer", {"": workspace.settings.layer}).items():
        place = workspace.at_layer(str(layer[1])) if layer[0] else workspace
        whole = plan_ranking(place, method)
        for text, share in varied.get("probe-share", {"": 1.0}).items():
            label = " ".join(
                [method, *([f"layer={layer[0]}"] if layer[0] else []), *([f"probe-share={text}"] if text else [])]
            )
            plans[label] = on_share(whole, float(share))
    return plans


def _of_any_model(workspace: Workspace[AnalyzeSettings], ranking_id: str) -> RankingPlan:
    """Return a committed ranking, of this or another model."""
    scores = read_ranking(workspace.catalog, ranking_id)
    first = workspace.catalog.read("rankings", ranking_id).slice(0, 1).to_pylist()[0]
    classes, width = scores.scores.shape
    layer = Layer(str(first["layer"]), "", "output", (width,))
    names = workspace.class_names
    if classes != len(names):
        raise InputError(f"ranking {ranking_id} is of {classes} classes, the data has {len(names)}; compare equal ones")
    ranked = RankedModel(str(first["model"]), str(first["model_id"]), str(first["dataset"]), tuple(names), layer)
    return RankingPlan(str(first["method"]), ranked, GivenRanking(layer, names, given=scores), stored_id=ranking_id)


def _require_comparable(compared: Mapping[str, RankingPlan]) -> None:
    """Check that there are two rankings at least, all of as many neurons."""
    if len(compared) < 2:
        raise InputError(
            "overlap compares two rankings at least; name defenses of two methods, such as --defenses loir-16,cdir-16, "
            "or --vary layer=… or probe-share=…"
        )
    widths = {label: plan.ranked.layer.width for label, plan in compared.items()}
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{label}: {width}" for label, width in widths.items())
        raise InputError(f"rankings of different numbers of neurons share none ({listed}); compare layers of one width")
