"""`igd search`: choose k on clean accuracy."""

import argparse
import sys

from igd_ray.catalog import run_query
from igd_ray.commands.dry_run import show_costs
from igd_ray.commands.executors import executor_for
from igd_ray.commands.flags import add_defense_flags, add_dry_run, add_study_flags, given_settings
from igd_ray.commands.output import show
from igd_ray.config import SearchSettings, load_settings
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.verbs import plan_searches, search

# No k meets the tolerance: the table is printed all the same.
NOTHING_FEASIBLE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--method", help="loir, cdir, random; several with commas (default: loir)")
    parser.add_argument("--tolerance", help="how far clean accuracy may fall, as a fraction (default: 0.005)")
    add_study_flags(parser)
    add_defense_flags(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, and print every trial."""
    settings = load_settings(SearchSettings, file=arguments.config, given=given_settings(arguments))
    with Study(settings, executor=executor_for(settings)) as study:
        plans = plan_searches(study, settings.method, tolerance=settings.tolerance)
        if arguments.dry_run:
            units = [unit for plan in plans for unit in [*plan.ranking.units, *plan.units]]
            show_costs(study, units, as_json=arguments.json)
            return 0
        results = search(study, settings, plans)
        ids = ", ".join(f"'{result.search_id}'" for result in results)
        table = run_query(
            study.catalog,
            f"""
            SELECT search_id, method, trial, k, sigma, tau, clean_accuracy, base_clean_accuracy, feasible, chosen
            FROM trials WHERE search_id IN ({ids}) ORDER BY method, trial
            """,
        )
        show(table, as_json=arguments.json)
        infeasible = [plan.ranking.method for plan, found in zip(plans, results, strict=True) if found.chosen is None]
        if infeasible:
            print(
                f"igd: no k keeps clean accuracy within {settings.tolerance:g} of the base model's "
                f"for {', '.join(infeasible)}; raise --tolerance or lower --sigma",
                file=sys.stderr,
            )
            return NOTHING_FEASIBLE
        if not arguments.json:
            for result in results:
                assert result.chosen is not None
                print(f"chosen: k = {result.chosen.k} (use it with: igd evaluate --from-search {result.search_id})")
    return 0
