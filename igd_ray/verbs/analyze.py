"""`igd analyze`: what stands behind the accuracies, class by class, setting by setting, neuron by neuron."""

import argparse
from pathlib import Path

import pyarrow as pa

from igd_ray.catalog import Catalog, ask, named_query
from igd_ray.catalog.query import Reader
from igd_ray.config import AnalyzeSettings, load_settings
from igd_ray.config.analysis import VARIED
from igd_ray.execution.analysis import run_analysis
from igd_ray.execution.session import Session, require_all
from igd_ray.planning.analyses import ANALYSES
from igd_ray.planning.workspace import Workspace
from igd_ray.report.results import Rows
from igd_ray.verbs.dry_run import show_costs
from igd_ray.verbs.flags import (
    add_defense_arguments,
    add_defense_flags,
    add_dry_run,
    add_method_arguments,
    add_workspace_flags,
    executor_for,
    given_settings,
)
from igd_ray.verbs.output import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    abouts = "; ".join(f"{name}: {analysis.about}" for name, analysis in ANALYSES.items())
    parser.add_argument("analysis", choices=list(ANALYSES), help=abouts)
    parser.add_argument("--defenses", help="with commas, as in `igd evaluate` (default: none)")
    parser.add_argument("--attacks", help="with commas, as in `igd evaluate` (default: the analysis's own)")
    parser.add_argument(
        "--vary",
        action="append",
        metavar="NAME=VALUE,…",
        help=f"a setting that varies: {', '.join(VARIED)}; given twice, both at once",
    )
    parser.add_argument("--grid", type=int, help="loss-surface: points along each direction (default: 9)")
    parser.add_argument("--repetitions", type=int, help="cost: how often times are taken (default: 5)")
    parser.add_argument(
        "--ranking", metavar="ID", help="use these rankings, with commas; overlap takes those of other models, too"
    )
    parser.add_argument("--shard-size", type=int, help="images per unit, attacked as one batch (default: 64)")
    parser.add_argument("--figure", metavar="FILE.svg", help="draw it into this file, too (default: no figure)")
    add_method_arguments(parser)
    add_workspace_flags(parser)
    add_defense_flags(parser)
    add_defense_arguments(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run one analysis, print its rows, and draw them."""
    settings = load_settings(AnalyzeSettings, file=arguments.config, given=given_settings(arguments))
    analysis = ANALYSES[settings.analysis]
    analysis.check(settings)
    executor = executor_for(settings)
    workspace = Workspace(settings)
    plan = analysis.plan(workspace)
    if arguments.dry_run:
        show_costs(workspace, [*plan.first_units, *plan.units], as_json=arguments.json)
        return 0
    with Session(workspace, executor) as session:
        summary = run_analysis(session, plan)
        rows = rows_of(workspace.catalog, analysis.query, plan.run_id)
        show(pa.Table.from_pylist(list(rows)), as_json=arguments.json)
        if "figure" in arguments:
            # Imported here, as matplotlib takes a while to load and few draw.
            from igd_ray.report.figures.analyses import analysis_figure
            from igd_ray.report.figures.svg import standalone

            text = standalone(analysis_figure(settings.analysis, rows))
            Path(arguments.figure).write_text(text, encoding="utf-8")
        require_all(summary, "analysis")
    return 0


def rows_of(catalog: Catalog, query: str, run_id: str) -> Rows:
    """Return the rows of a shipped query that are of one run, in its order."""

    def question(reader: Reader) -> Rows:
        reader.only(run_id)
        rows = reader.rows(named_query(query))
        return [{name: value for name, value in row.items() if name != "run_id"} for row in rows]

    return ask(catalog, question)
