"""`igd rank`: rank a layer's neurons for every class."""

import argparse

from igd_ray.catalog import run_query
from igd_ray.config import ImportSettings, RankSettings, load_settings
from igd_ray.planning.rankings import RankingPlan
from igd_ray.planning.verbs import rank
from igd_ray.planning.workspace import Study
from igd_ray.ranking import RANKINGS
from igd_ray.verbs.dry_run import show_costs
from igd_ray.verbs.executors import executor_for
from igd_ray.verbs.flags import add_dry_run, add_study_flags, given_settings
from igd_ray.verbs.output import show

# Classes of a ranking that are printed for people.
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--method", help=f"{', '.join(RANKINGS)}; several with commas (default: loir)")
    parser.add_argument(
        "--import-from", metavar="DIR", help="take the ranking that the authors' scripts saved there (unit*.npy)"
    )
    add_study_flags(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compute the rankings and print where they are and who is on top."""
    kind = ImportSettings if "import_from" in arguments else RankSettings
    settings = load_settings(kind, file=arguments.config, given=given_settings(arguments))
    with Study(settings, executor=executor_for(settings)) as study:
        if isinstance(settings, ImportSettings):
            plans: list[RankingPlan] = [study.import_ranking(settings.method[0], settings.import_from)]
        else:
            plans = [study.plan_ranking(method) for method in settings.method]
        if arguments.dry_run:
            show_costs(study, [unit for plan in plans for unit in plan.units], as_json=arguments.json)
            return 0
        rank(study, settings, plans)
        ids = ", ".join(f"'{plan.ranking_id}'" for plan in plans)
        table = run_query(
            study.catalog,
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
