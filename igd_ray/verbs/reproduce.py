"""`igd reproduce`: a table or figure of the paper, made again, beside the paper's own numbers."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from igd_ray.catalog import ask
from igd_ray.catalog.query import Reader
from igd_ray.config import AnalyzeSettings, EvaluateSettings, load_settings
from igd_ray.errors import InputError
from igd_ray.execution.analysis import run_analysis
from igd_ray.execution.session import Session, require_all
from igd_ray.experiments import Experiment, experiment_names, load_experiment, published_numbers, without_k
from igd_ray.planning.analyses import ANALYSES
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.protocol import NINE_ATTACKS
from igd_ray.report.results import Rows
from igd_ray.report.tables import print_table
from igd_ray.verbs.analyze import rows_of
from igd_ray.verbs.dry_run import show_costs
from igd_ray.verbs.evaluate import evaluate
from igd_ray.verbs.flags import add_defense_flags, add_dry_run, add_workspace_flags, executor_for, given_settings

# Columns that are shares of images in percent: these have an interval.
SHARES = ("clean", "aa", "iwwc", "aa_strong", "square", "robust")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("experiment", choices=experiment_names(), help="the paper's tables and figures")
    parser.add_argument(
        "--scale",
        choices=["paper", "small"],
        default="paper",
        help="small takes fewer images, weaker attacks, and the model and data at hand: those of --model and --data, "
        "else the demo's (default: paper)",
    )
    parser.add_argument("--defenses", help="in place of the experiment's, with commas")
    parser.add_argument("--attacks", help="in place of the experiment's, with commas")
    parser.add_argument("--figure", metavar="FILE.svg", help="draw the first part of a figure (default: no figure)")
    add_workspace_flags(parser)
    add_defense_flags(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run every part and print what was measured beside what the paper prints."""
    experiment = load_experiment(arguments.experiment)
    if "figure" in arguments and not experiment.name.startswith("fig"):
        raise InputError(
            f"--figure is for the paper's figures; {experiment.name} is a table, which igd reproduce prints"
        )
    small = arguments.scale == "small"
    given = given_settings(arguments)
    parts = {
        part: _settings(experiment, {**values, **given}, arguments.config)
        for part, values in experiment.runs(small=small).items()
    }
    title = experiment.title
    if small:
        models = ", ".join(dict.fromkeys(f"{each.model} on {each.data}" for each in parts.values()))
        title += f"; at small scale, with the model at hand ({models}) instead of the paper's"
    measured: dict[str, Rows] = {}
    for part, settings in parts.items():
        executor = executor_for(settings)
        workspace = Workspace(settings)
        if arguments.dry_run:
            print(f"{title}: {part}", file=sys.stderr)
            _show_costs(workspace, as_json=arguments.json)
            continue
        with Session(workspace, executor) as session:
            measured[part] = _run(session, experiment.query)
    if arguments.dry_run:
        return 0
    rows = ask(workspace.catalog, lambda reader: compared(experiment, measured, reader))
    if arguments.json:
        report = {"title": title, "rows": rows, "differences": experiment.differences}
        json.dump(report, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        print_table(rows, title=title)
        for difference in (*experiment.differences, *_of_scale(small)):
            print(f"differs from the paper: {difference}")
    if "figure" in arguments:
        _draw(Path(arguments.figure), parts, measured)
    return 0


def compared(experiment: Experiment, measured: Mapping[str, Rows], reader: Reader) -> list[dict[str, Any]]:
    """Return a row for each number: what was measured, with its 95 % interval, and what the paper prints, if anything.

    Args:
        experiment: which table or figure.
        measured: the rows of its query, by part.
        reader: knows how intervals are computed.
    """
    published = {
        (part, without_k(row), column): value
        for (part, row, column), value in published_numbers(experiment.name).items()
    }
    rows = []
    for part, found in measured.items():
        for each in found:
            row = " ".join(str(each[name]) for name in experiment.row)
            for column in experiment.columns:
                value, paper = each.get(column), published.get((part, without_k(row), column))
                low, high = _interval(reader, column, value, each.get("n"))
                difference = None if value is None or paper is None else round(value - paper, 2)
                rows.append(
                    {
                        "part": part,
                        "row": row,
                        "column": column,
                        "measured": value,
                        "low": low,
                        "high": high,
                        "published": paper,
                        "difference": difference,
                    }
                )
    return rows


def _interval(reader: Reader, column: str, value: float | None, n: int | None) -> tuple[float | None, float | None]:
    is_share = column in SHARES or column in NINE_ATTACKS
    if not is_share or value is None or not n:
        return None, None
    (ends,) = reader.rows(
        "SELECT round(100 * wilson_low($1 / 100, $2), 2) AS low, round(100 * wilson_high($1 / 100, $2), 2) AS high",
        value,
        n,
    )
    return ends["low"], ends["high"]


def _settings(experiment: Experiment, values: dict[str, Any], config: str | None) -> EvaluateSettings:
    kind = AnalyzeSettings if experiment.verb == "analyze" else EvaluateSettings
    settings = load_settings(kind, file=config, given=values)
    if isinstance(settings, AnalyzeSettings):
        ANALYSES[settings.analysis].check(settings)
    return settings


def _run(session: Session, query: str) -> Rows:
    """Evaluate or analyze, as the settings say, and return the rows of the query."""
    workspace, settings = session.workspace, session.workspace.settings
    if isinstance(settings, AnalyzeSettings):
        analysis = ANALYSES[settings.analysis].plan(workspace.with_settings(settings))
        require_all(run_analysis(session, analysis), "analysis")
        return rows_of(workspace.catalog, query, analysis.run_id)
    assert isinstance(settings, EvaluateSettings)
    plan = plan_evaluation(workspace.with_settings(settings))
    require_all(evaluate(session, plan), "evaluation")
    return rows_of(workspace.catalog, query, plan.run_id)


def _show_costs(workspace: Workspace[EvaluateSettings], *, as_json: bool) -> None:
    settings = workspace.settings
    if isinstance(settings, AnalyzeSettings):
        analysis = ANALYSES[settings.analysis].plan(workspace.with_settings(settings))
        show_costs(workspace, [*analysis.first_units, *analysis.units], as_json=as_json)
        return
    plan = plan_evaluation(workspace)
    show_costs(workspace, [*plan.needed.units, *plan.units], as_json=as_json)


def _of_scale(small: bool) -> Sequence[str]:
    if not small:
        return ()
    return ("the model, its data and eps, the number of images, k and the attacks' budgets are of the small scale",)


def _draw(file: Path, parts: Mapping[str, EvaluateSettings], measured: Mapping[str, Rows]) -> None:
    # Imported here, as matplotlib takes a while to load and few draw.
    from igd_ray.report.figures.analyses import analysis_figure
    from igd_ray.report.figures.svg import standalone

    first = next(iter(parts))
    settings = parts[first]
    assert isinstance(settings, AnalyzeSettings)
    file.write_text(standalone(analysis_figure(settings.analysis, measured[first])), encoding="utf-8")
