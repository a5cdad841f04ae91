"""The worst case of several defenses as a cascade beside separate runs of every attack on each defense."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.config import EvaluateSettings
from igd_ray.execution.executor import in_process
from igd_ray.execution.session import Session, require_all
from igd_ray.planning.evaluation import EvaluationPlan, plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.units.judged import JudgedUnit

# The share of the separate runs' passes that the project promises.
GOAL = 0.4

Row = dict[str, object]


def bench_worst_case(settings: EvaluateSettings, folder: Path) -> list[Row]:
    """Evaluate both ways, in catalogs of their own in `folder`.

    Both sides judge the same images; checks, rankings and trainings are not counted.

    Returns:
        one row of `what`, `alternative`, `defenses`, `images`, `passes` and `alternative_passes` (forward and
        backward, recorded with the verdicts), their `share` and its `goal`, `seconds` and `alternative_seconds`
        (recorded, too), and `verdicts_that_differ` of the worst case, over defenses and images.

    Raises:
        IncompleteError: if a unit failed.
    """
    cascade = settings.model_copy(update={"mode": "cascade", "catalog": str(folder / "cascade")})
    separate = settings.model_copy(update={"mode": "full", "catalog": str(folder / "separate")})
    workspace, other = Workspace(cascade), Workspace(separate)
    plan, naive_plan = plan_evaluation(workspace), plan_evaluation(other)
    units, naive = [unit for unit in plan.units if isinstance(unit, JudgedUnit)], naive_plan.naive()
    ours, others = _evaluated(workspace, plan, units), _evaluated(other, naive_plan, naive)
    passes, seconds = _recorded(ours, units)
    separate_passes, separate_seconds = _recorded(others, naive)
    broken, separately_broken = _broken(ours, units), _broken(others, naive)
    differing = sum(len(broken[label] ^ separately_broken[label]) for label in broken | separately_broken)
    return [
        {
            "what": "worst case, in a cascade",
            "alternative": "each attack on each defense by itself",
            "defenses": len(plan.needed.defenses),
            "images": len({image for cell in plan.cells for image in cell.unit.shard.ids}),
            "passes": passes,
            "alternative_passes": separate_passes,
            "share": round(passes / separate_passes, 3),
            "goal": GOAL,
            "seconds": round(seconds, 1),
            "alternative_seconds": round(separate_seconds, 1),
            "verdicts_that_differ": differing,
        }
    ]


def _evaluated(workspace: Workspace[EvaluateSettings], plan: EvaluationPlan, units: Sequence[JudgedUnit]) -> Catalog:
    """Compute `units`, and what the defenses need before, in this process."""
    with Session(workspace, in_process("auto")) as session:
        for ranking in plan.needed.rankings.values():
            session.rank(ranking)
        if plan.needed.training is not None:
            session.train(plan.needed.training)
        require_all(session.run(list({unit.key: unit for unit in units}.values()), "evaluate"), "evaluation")
    return workspace.catalog


def _recorded(catalog: Catalog, units: Iterable[JudgedUnit]) -> tuple[int, float]:
    """Return the passes and the seconds of `units`, of one that occurs twice twice."""
    passes, seconds = 0, 0.0
    for unit in units:
        table = catalog.read("outcomes", unit.key)
        passes += sum(table["forwards"].to_pylist()) + sum(table["backwards"].to_pylist())
        seconds += sum(table["seconds"].to_pylist())
    return passes, seconds


def _broken(catalog: Catalog, units: Iterable[JudgedUnit]) -> dict[str, set[str]]:
    """Return, for each defense, the images that at least one unit broke or that were misclassified before."""
    broken = defaultdict[str, set[str]](set)
    for unit in units:
        table = catalog.read("outcomes", unit.key)
        for image, status in zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True):
            if status in ("broken", "misclassified"):
                broken[unit.defense.label].add(image)
    return dict(broken)
