"""`igd search`: choose k, σ and τ on clean accuracy."""

import argparse
import sys
from collections.abc import Sequence

from igd_ray.catalog import Catalog, ask, run_query
from igd_ray.config import SearchSettings, load_settings
from igd_ray.execution.session import Session, commit_run, commit_stages, require_all
from igd_ray.planning.refinement import commit_refinement, most_refinement, plan_refinement, robust_accuracies
from igd_ray.planning.search import SearchPlan, SearchResult, finish_search, plan_searches
from igd_ray.planning.search.own import plan_own_search
from igd_ray.planning.workspace import Workspace
from igd_ray.ranking import RANKINGS
from igd_ray.report.preparation.stored import read_search
from igd_ray.search import Trial, best_trials, most_accurate
from igd_ray.units.base import Unit
from igd_ray.verbs.dry_run import show_costs
from igd_ray.verbs.flags import (
    OWN_RANKING,
    add_defense_arguments,
    add_defense_flags,
    add_dry_run,
    add_method_arguments,
    add_workspace_flags,
    executor_for,
    given_settings,
)
from igd_ray.verbs.output import show

# No k meets the tolerance: the table is printed all the same.
NOTHING_FEASIBLE = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--method",
        help=f"{', '.join(RANKINGS)}, or your own as {OWN_RANKING}; several with commas (default: loir)",
    )
    add_method_arguments(parser)
    parser.add_argument("--ranking", metavar="ID", help="use this ranking instead of computing one")
    parser.add_argument(
        "--defense",
        metavar="NAME=FILE.py:factory",
        help="search the arguments k, and sigma, tau and draws where it has them, of your own defense, not of masks",
    )
    add_defense_arguments(parser)
    parser.add_argument("--tolerance", help="how far clean accuracy may fall, as a fraction (default: 0.005)")
    space = parser.add_argument_group("what is tried")
    space.add_argument("--sigmas", help="multiples of eps with commas, such as 0.25,0.5,1 (default: --sigma)")
    space.add_argument("--taus", help="with commas, or LOW:HIGH:COUNT by equal factors (default: --tau)")
    space.add_argument("--draw-counts", help="numbers of noise draws, with commas (default: --draws)")
    space.add_argument("--ks", help="LOW:HIGH, or numbers with commas (default: 1 to all neurons)")
    space.add_argument("--k-mode", choices=["shared", "per-class"], help="one k, or one per class (default: shared)")
    space.add_argument(
        "--sampler", choices=["bisection", "grid", "random", "optuna"], help="default: bisection; optuna if installed"
    )
    space.add_argument("--trials", type=int, help="how many random and optuna take (default: 32)")
    space.add_argument(
        "--refine", type=int, metavar="N", help="attack the N best settings on search images, and choose by that"
    )
    space.add_argument("--refine-n", type=int, help="how many search images are attacked (default: 64)")
    add_workspace_flags(parser)
    add_defense_flags(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, and print every trial, or the best of every σ and τ where there are several."""
    settings = load_settings(SearchSettings, file=arguments.config, given=given_settings(arguments))
    executor = executor_for(settings)
    workspace = Workspace(settings)
    own = settings.defense
    plans = plan_searches(workspace) if own is None else [plan_own_search(workspace, own)]
    if arguments.dry_run:
        units: list[Unit] = []
        for plan in plans:
            units += [*plan.ranking_units, *plan.units, *most_refinement(workspace, plan)]
        show_costs(workspace, units, as_json=arguments.json)
        return 0
    with Session(workspace, executor) as session:
        results = search(session, plans)
        _show_trials(workspace.catalog, plans, results, as_json=arguments.json)
        for plan, result in zip(plans, results, strict=True):
            if not arguments.json:
                _show_choice(workspace.catalog, plan, result)
            if result.chosen is None:
                _say_nothing_feasible(settings, plan, most_accurate(result.trials))
    return 0 if all(result.chosen for result in results) else NOTHING_FEASIBLE


def search(session: Session, plans: Sequence[SearchPlan]) -> list[SearchResult]:
    """Search with each ranking; a ranking that is not there is computed first."""
    workspace = session.workspace
    units = [unit for plan in plans for unit in [*plan.ranking_units, *plan.units]]
    session.prepare(units)
    commit_stages(workspace, "search", [plan.search_id for plan in plans], units)
    results = []
    for plan in plans:
        if plan.ranking is not None:
            session.rank(plan.ranking)
        require_all(session.run(plan.units, f"cache {plan.method}"), "search")
        trials = session.run_trials(plan)
        attacked = best_trials(trials)[: plan.settings.refine]
        robust_accuracy = _refine(session, plan, attacked) if attacked else {}
        results.append(finish_search(workspace.catalog, plan, trials, robust_accuracy))
    return results


def _refine(session: Session, plan: SearchPlan, trials: Sequence[Trial]) -> dict[int, float]:
    workspace = session.workspace.with_settings(plan.settings)
    refinement = plan_refinement(workspace, plan, trials)
    attacks = refinement.plan
    commit_run(workspace, run_id=attacks.run_id, verb="refine", units=attacks.rows())
    require_all(session.run(attacks.units, f"refine {plan.method}"), "refinement")
    robust_accuracy = robust_accuracies(workspace.catalog, refinement)
    commit_refinement(workspace.catalog, plan, refinement, robust_accuracy)
    return robust_accuracy


def _show_trials(
    catalog: Catalog, plans: Sequence[SearchPlan], results: Sequence[SearchResult], *, as_json: bool
) -> None:
    ids = ", ".join(f"'{result.search_id}'" for result in results)
    grouped = not as_json and any(len(plan.space.groups) > 1 for plan in plans)
    accuracies = "clean_accuracy, base_clean_accuracy, difference_low AS low, difference_high AS high"
    robust = ", robust_accuracy" if as_json or any(result.robust_accuracy for result in results) else ""
    # A thousand classes do not fit a table.
    k = "k, class_k" if as_json else "mean_k AS k"
    query = f"""
        SELECT search_id, method, trial, {k}, sigma, tau, draws, {accuracies}{robust}, feasible, pareto, chosen
        FROM trials WHERE search_id IN ({ids}) ORDER BY method, trial
        """
    if grouped:
        query = f"""
        SELECT method, sigma, tau, draws, {k}, least_k, safe_k, {accuracies}{robust}, feasible, trials, chosen
        FROM search_settings WHERE search_id IN ({ids}) ORDER BY method, sigma, tau, draws
        """
    show(run_query(catalog, query), as_json=as_json)


def _show_choice(catalog: Catalog, plan: SearchPlan, result: SearchResult) -> None:
    # Imported here, as drawing needs matplotlib.
    from igd_ray.report.preparation.searches import write_search_figure

    path = catalog.root / f"search-{result.search_id}.svg"
    search, trials = ask(catalog, lambda reader: read_search(reader, result.search_id))
    write_search_figure(search, trials, path)
    if result.chosen is not None:
        use = f"use it with: igd evaluate {plan.usage(result.chosen.setting)}"
        print(f"chosen: {_setting(plan, result.chosen)} ({use})")
    print(f"accuracy over k: {path}")


def _setting(plan: SearchPlan, trial: Trial) -> str:
    setting, values = trial.setting, plan.columns(trial.setting)
    k = setting.k if isinstance(setting.k, int) else f"{setting.mean_k:.4g} on average over the classes"
    low, high = trial.measurement.interval
    named = {"sigma": f"σ = {setting.sigma:.4g}", "tau": f"τ = {setting.tau:g}", "draws": f"draws = {setting.draws}"}
    parts = [f"k = {k}", *(text for name, text in named.items() if values[name] is not None)]
    return (
        f"{', '.join(parts)}, clean accuracy "
        f"{trial.measurement.accuracy:.4f} ({100 * low:+.2f} to {100 * high:+.2f} points beside the base model's)"
    )


def _say_nothing_feasible(settings: SearchSettings, plan: SearchPlan, best: Trial) -> None:
    print(
        f"igd: no k keeps clean accuracy within {settings.tolerance:g} of the base model's for {plan.method}; "
        f"the best is {_setting(plan, best)}; raise --tolerance, lower σ, or widen --ks",
        file=sys.stderr,
    )
