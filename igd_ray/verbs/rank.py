"""`igd rank`: rank a layer's neurons for every class."""

import argparse

from igd_ray.catalog import run_query
from igd_ray.config import ImportSettings, RankSettings, load_settings
from igd_ray.execution.run import commit_stages
from igd_ray.execution.session import Session
from igd_ray.planning.rankings import RankingPlan, import_ranking, plan_ranking
from igd_ray.planning.workspace import Workspace
from igd_ray.ranking import RANKINGS
from igd_ray.verbs.dry_run import show_costs
from igd_ray.verbs.executors import executor_for
from igd_ray.verbs.flags import OWN_RANKING, add_dry_run, add_method_arguments, add_workspace_flags, given_settings
from igd_ray.verbs.output import show

# Classes of a ranking that are printed for people.
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--method",
        help=f"{', '.join(RANKINGS)}, or your own as {OWN_RANKING}; several with commas (default: loir)",
    )
    add_method_arguments(parser)
    parser.add_argument(
        "--import-from", metavar="DIR", help="take the ranking that the authors' scripts saved there (unit*.npy)"
    )
    add_workspace_flags(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compute the rankings and print where they are and who is on top."""
    kind = ImportSettings if "import_from" in arguments else RankSettings
    settings = load_settings(kind, file=arguments.config, given=given_settings(arguments))
    executor = executor_for(settings)
    workspace = Workspace(settings)
    if isinstance(settings, ImportSettings):
        plans: list[RankingPlan] = [import_ranking(workspace, settings.methods[0], settings.import_from)]
    else:
        plans = [plan_ranking(workspace, method) for method in settings.methods]
    units = [unit for plan in plans for unit in plan.units]
    if arguments.dry_run:
        show_costs(workspace, units, as_json=arguments.json)
        return 0
    with Session(workspace, executor) as session:
        session.prepare(units)
        commit_stages(workspace, "rank", [plan.ranking_id for plan in plans], units)
        for plan in plans:
            session.rank(plan)
        ids = ", ".join(f"'{plan.ranking_id}'" for plan in plans)
        table = run_query(
            workspace.catalog,
            f"""
            WITH classes AS (
                SELECT ranking_id, method, layer, class_id, any_value(class_name) AS class, max(neuron) + 1 AS width,
                    list(neuron ORDER BY rank)[:8] AS top_neurons
                FROM rankings WHERE ranking_id IN ({ids})
                GROUP BY ranking_id, method, layer, class_id
            )
            SELECT * EXCLUDE (class_id) FROM classes
            WHERE {arguments.json} OR class_id < {SHOWN}
            ORDER BY method, ranking_id, class_id
            """,
        )
        show(table, as_json=arguments.json)
    return 0
