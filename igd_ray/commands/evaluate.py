"""`igd evaluate`: attack defenses and reduce to the image-wise worst case."""

import argparse

import pyarrow as pa

from igd_ray.attacks.registry import known_attacks
from igd_ray.catalog import Catalog, ask, run_query
from igd_ray.commands.dry_run import show_costs
from igd_ray.commands.executors import executor_for
from igd_ray.commands.flags import (
    add_defense_arguments,
    add_defense_flags,
    add_dry_run,
    add_study_flags,
    given_settings,
)
from igd_ray.commands.output import show
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.defenses.specs import known_defenses
from igd_ray.pipeline.run import require_all
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.verbs import evaluate, plan_evaluation_of
from igd_ray.report.evaluation import asking, comparisons


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--defenses", help=f"with commas: {', '.join(known_defenses())}; K a number of neurons (default: none)"
    )
    parser.add_argument(
        "--attacks", help=f"with commas: {', '.join(known_attacks())}; -N for another budget (default: aa,tr-apgd-ce)"
    )
    parser.add_argument("--ranking", metavar="ID", help="use these rankings, with commas, instead of computing them")
    parser.add_argument("--from-search", metavar="ID", help="add the defenses that these searches chose, with commas")
    parser.add_argument("--shard-size", type=int, help="images a unit, attacked as one batch (default: 64)")
    parser.add_argument("--attack-seed", type=int, help="one seed for every attack, to repeat a published run")
    parser.add_argument("--judge-draws", type=int, help="fresh evaluations of each point (default: 1)")
    add_study_flags(parser)
    add_defense_flags(parser)
    add_defense_arguments(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, and print accuracy per attack and the worst case."""
    settings = load_settings(EvaluateSettings, file=arguments.config, given=given_settings(arguments))
    with Study(settings, executor=executor_for(settings)) as study:
        evaluation = plan_evaluation_of(study, settings)
        if arguments.dry_run:
            units = [*evaluation.resolved.preparations, *evaluation.plan.units]
            show_costs(study, units, as_json=arguments.json)
            return 0
        summary = evaluate(study, settings, evaluation)
        show_accuracy(study.catalog, evaluation.plan.run_id, as_json=arguments.json)
        require_all(summary, "evaluation")
    return 0


def show_accuracy(catalog: Catalog, run_id: str, *, as_json: bool) -> None:
    """Print one row a defense: clean, each attack, worst case with its interval, and the gain over `none`."""
    attacks = run_query(
        catalog, f"SELECT DISTINCT attack FROM accuracy WHERE run_id = '{run_id}' AND attack <> 'clean' ORDER BY attack"
    )["attack"].to_pylist()
    columns = [f"max(robust_accuracy) FILTER (attack = '{attack}') AS \"{attack}\"" for attack in attacks]
    table = run_query(
        catalog,
        f"""
        WITH attacked AS (
            SELECT {", ".join(["defense", *columns])} FROM accuracy WHERE run_id = '{run_id}' GROUP BY defense
        )
        SELECT worst_case.defense, n, clean_accuracy AS clean, attacked.* EXCLUDE (defense),
            robust_accuracy AS worst_case, low, high, gain
        FROM worst_case JOIN attacked USING (defense) WHERE run_id = '{run_id}'
        ORDER BY defense <> 'none', defense
        """,
    )
    compared = ask(catalog, lambda connection: comparisons(asking(connection), run_id))
    # A gain that chance explains is not one (exact McNemar test on the same images).
    claims = [compared[defense].verdict if defense in compared else None for defense in table["defense"].to_pylist()]
    table = table.append_column("claim", pa.array(claims, pa.string()))
    warnings = run_query(
        catalog,
        f"""
        SELECT defense, "check", message FROM checks
        WHERE run_id = '{run_id}' AND severity <> 'info' ORDER BY defense, "check"
        """,
    )
    show(table, as_json=as_json, title=None if as_json else f"Run {run_id}, accuracies as fractions")
    if not as_json:
        for warning in warnings.to_pylist():
            print(f"check {warning['check']} ({warning['defense']}): {warning['message']}")
