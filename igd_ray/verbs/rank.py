"""`igd rank`: rank a layer's neurons for every class."""

import argparse
import json
import sys
from collections.abc import Sequence

from igd_ray.catalog import Catalog, ask, run_query
from igd_ray.catalog.query import Reader
from igd_ray.config import ImportSettings, RankSettings, load_settings
from igd_ray.errors import InputError, did_you_mean
from igd_ray.execution.session import Session, commit_stages
from igd_ray.planning.rankings import RankingPlan, import_ranking, plan_ranking
from igd_ray.planning.workspace import Workspace
from igd_ray.ranking import RANKINGS
from igd_ray.report.preparation.neurons import labels_of, neuron_table
from igd_ray.report.preparation.stored import TOP, read_neurons
from igd_ray.report.results import Rows
from igd_ray.report.tables import print_table
from igd_ray.verbs.dry_run import show_costs
from igd_ray.verbs.flags import (
    OWN_RANKING,
    add_dry_run,
    add_method_arguments,
    add_workspace_flags,
    executor_for,
    given_settings,
)
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
    parser.add_argument(
        "--show",
        metavar="CLASS",
        help="print the most important neurons of this class, a name or a number, with scores, ranks, and the classes "
        "that share them",
    )
    parser.add_argument("--top", type=int, metavar="K", help=f"how many neurons --show prints (default: {TOP})")
    add_workspace_flags(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compute the rankings and print where they are and who is on top."""
    kind = ImportSettings if "import_from" in arguments else RankSettings
    settings = load_settings(kind, file=arguments.config, given=given_settings(arguments))
    executor = executor_for(settings)
    workspace = Workspace(settings)
    shown = _class_to_show(arguments, workspace.class_names)
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
        if shown is not None:
            show_neurons(workspace.catalog, [plan.ranking_id for plan in plans], shown, arguments)
            return 0
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


def show_neurons(catalog: Catalog, ranking_ids: Sequence[str], class_id: int, arguments: argparse.Namespace) -> None:
    """Print the most important neurons of a class in any of several rankings of a layer."""

    def question(reader: Reader) -> tuple[Rows, Rows]:
        methods = reader.rows(
            "SELECT DISTINCT ranking_id, method FROM rankings WHERE list_contains($1, ranking_id)", ids
        )
        return methods, read_neurons(reader, ids, class_id=class_id, top=_top(arguments))

    ids = list(dict.fromkeys(ranking_ids))
    methods, rows = ask(catalog, question)
    labels = labels_of(sorted(methods, key=lambda row: ids.index(row["ranking_id"])))
    if arguments.json:
        json.dump(
            [{**row, "methods": [labels[each] for each in row["ranking_ids"]]} for row in rows], sys.stdout, indent=2
        )
        print()
        return
    table = neuron_table(labels, rows)
    names = {column.title: column.name for column in table.columns}
    print_table(
        [{title: row[name] for title, name in names.items()} for row in table.rows],
        title=f"Neurons of {rows[0]['class_name']}; rank 0 is the best",
    )


def _top(arguments: argparse.Namespace) -> int:
    top: int = getattr(arguments, "top", TOP)
    if top < 1:
        raise InputError(f"--top must be 1 at least, not {top}")
    return top


def _class_to_show(arguments: argparse.Namespace, class_names: Sequence[str]) -> int | None:
    """Return the number of the class that --show names."""
    if "show" not in arguments:
        if "top" in arguments:
            raise InputError("--top goes with --show CLASS")
        return None
    _top(arguments)
    name = arguments.show
    if name in class_names:
        return list(class_names).index(name)
    if name.isdecimal() and int(name) < len(class_names):
        return int(name)
    raise InputError(
        f"--show takes a class, by its name or a number below {len(class_names)}, not {name!r}"
        f"{did_you_mean(name, class_names)}"
    )
