"""`igd evaluate`: attack defenses and reduce to the image-wise worst case."""

import argparse
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from igd_ray.attacks.base import ENGINES
from igd_ray.attacks.registry import REGISTERED
from igd_ray.catalog import Catalog, ask, run_query
from igd_ray.catalog.places import write_whole
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.defenses.specs import known_defenses
from igd_ray.errors import IncompleteError, InputError
from igd_ray.execution.session import RunSummary, Session, commit_comparisons, commit_run, require_all
from igd_ray.execution.until_decided import evaluate_until_decided
from igd_ray.planning.evaluation import EvaluationPlan, plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.protocol import attack_order
from igd_ray.report.records.gates import GRAMMAR, METRICS, Gate, judge_gates, junit_file, parse_gate, require_asked
from igd_ray.report.results import accuracy_rows, accuracy_tables, find_run, read_results
from igd_ray.report.sentences import remarks
from igd_ray.report.tables import print_table
from igd_ray.units.ranking import read_ranking
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    labels = ", ".join(sorted(REGISTERED, key=attack_order))
    parser.add_argument(
        "--defenses",
        help=f"with commas: {', '.join(known_defenses())}; K a number of neurons; NAME=FILE.py:factory is your own "
        "(default: none)",
    )
    parser.add_argument(
        "--attacks",
        help=f"with commas: iwwc (the worst case's nine), audit (the adaptive ones), clean, {labels}; tr-NAME for "
        "points computed on the base model; NAME-N for another budget; NAME=FILE.py:Attack is your own, "
        "NAME@DEFENSE=FILE.py:Attack for one defense; "
        "tr-ATTACK@FILE.py:factory[#WEIGHTS] computes its points on another model "
        "(default: aa,tr-apgd-ce)",
    )
    parser.add_argument(
        "--points",
        metavar="FILE",
        help="adversarial points that others computed, one for each image in its order (.npz, .safetensors, .pt), as "
        "one more attack; with commas, NAME=FILE for a name other than points",
    )
    parser.add_argument(
        "--mode",
        choices=["full", "cascade"],
        help="every attack on every image, or the cheapest first and the others on what it left robust: a worst "
        "case by the same rule for less work (attacks on the base model, which later runs reuse, are always full; "
        "default: full)",
    )
    parser.add_argument(
        "--until",
        choices=["decided"],
        help="take the images in a random order, evaluate a defense until its gain or loss is decided, by a test that "
        "holds however often one looks, and end with the last one, or after --n images (default: all images)",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        help="whose code AutoAttack's attacks are: pyautoattack's, with its verdicts image by image, or pooled: one "
        "pool of the runs of all images, in which a broken image makes room and each image has random numbers of its "
        "own, whatever the shards (default: pyautoattack)",
    )
    parser.add_argument(
        "--save-points",
        choices=["all", "broken", "none"],
        help="adversarial points to keep of attacks on defenses; what transfers and audits need is always kept "
        "(default: all of images up to 64×64, those that broke their image of larger ones)",
    )
    parser.add_argument(
        "--method", metavar=OWN_RANKING, help="a ranking of your own, for defenses NAME-K; several with commas"
    )
    add_method_arguments(parser)
    parser.add_argument("--ranking", metavar="ID", help="use these rankings, with commas, instead of computing them")
    parser.add_argument("--from-search", metavar="ID", help="add the defenses that these searches chose, with commas")
    parser.add_argument("--shard-size", type=int, help="images per unit, attacked as one batch (default: 64)")
    parser.add_argument("--attack-seed", type=int, help="one seed for every attack, to repeat a published run")
    parser.add_argument("--judge-draws", type=int, help="fresh evaluations of each point (default: 1)")
    add_workspace_flags(parser)
    add_defense_flags(parser)
    add_defense_arguments(parser)
    add_gate_flags(parser)
    add_dry_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print accuracy per attack and the worst case, and return whether the gates' claims hold."""
    gates = Gates(arguments)
    settings = load_settings(EvaluateSettings, file=arguments.config, given=given_settings(arguments))
    executor = executor_for(settings)
    workspace = Workspace(settings)
    plan = plan_evaluation(workspace)
    gates.require_asked([defense.label for defense in plan.needed.defenses])
    if arguments.dry_run:
        units = [*plan.needed.units, *plan.units]
        show_costs(workspace, units, naive=plan.naive(), first=plan.first_look, as_json=arguments.json)
        return 0
    with Session(workspace, executor) as session:
        summary = evaluate(session, plan)
        show_accuracy(workspace.catalog, plan.run_id, as_json=arguments.json)
        code = gates.judge(workspace.catalog, plan.run_id, quiet=arguments.json)
        require_all(summary, "evaluation")
        require_worst_case(workspace.catalog, plan.run_id)
    return code


def evaluate(session: Session, plan: EvaluationPlan) -> RunSummary:
    """Run an evaluation; when every unit is done, compare its attacks with each other.

    The run and its units are committed before anything is computed, so that what is unfinished shows.
    """
    workspace, needed = session.workspace, plan.needed
    session.prepare([*needed.units, *plan.units])
    # What an evaluation that may end early consists of is committed look by look.
    rows = (replace(plan, cells=(), sources=(), inspections=()) if plan.looks else plan).rows()
    commit_run(workspace, run_id=plan.run_id, verb="evaluate", units=rows, notes=plan.notes)
    for ranking in needed.rankings.values():
        session.rank(ranking)
    if needed.training is not None:
        session.train(needed.training)
    for ranking_id in {defense.ranking_id for defense in needed.defenses if defense.ranking_id}:
        # A damaged ranking is told here, once, rather than by every unit.
        read_ranking(workspace.catalog, ranking_id)
    if plan.looks:
        plan, summary = evaluate_until_decided(session, plan)
    else:
        summary = session.run(plan.units, "evaluate")
    if not summary.failed:
        commit_comparisons(workspace.catalog, plan, model=workspace.source.label)
    return summary


def require_worst_case(catalog: Catalog, run_id: str) -> None:
    """Check that the worst case of every defense is known.

    Raises:
        IncompleteError: naming those of which it is not, and what to do.
    """
    unknown = run_query(
        catalog,
        f"SELECT defense FROM worst_case WHERE run_id = '{run_id}' AND robust_accuracy IS NULL ORDER BY defense",
    )["defense"].to_pylist()
    if unknown:
        raise IncompleteError(
            f"the worst case of {', '.join(unknown)} is not known, as results are missing, damaged or errors; run the "
            "same command again, which computes these"
        )


def show_accuracy(catalog: Catalog, run_id: str, *, as_json: bool) -> None:
    """Print one row per defense: clean, each attack, worst case with its interval, and the gain over `none`.

    Then which attack broke each defense that falls; after an audit, what it leaves of each gain, and what each of its
    attacks found.
    """
    results = ask(catalog, lambda reader: read_results(reader, find_run(reader, run_id)))
    if as_json:
        show(pa.Table.from_pylist(accuracy_rows(results)), as_json=True)
        return
    for table in accuracy_tables(results):
        print_table(table.rows, title=table.title)
    for sentence in remarks(results):
        print(sentence)


# A claim fails, is undecided or was not measured; everything was computed and printed all the same.
CLAIM_NOT_SHOWN = 4


def add_gate_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--gate` and `--junit`."""
    gates = parser.add_argument_group("gates, for continuous integration")
    gates.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="CLAIM",
        help=f'"{GRAMMAR}" with METRIC one of {", ".join(METRICS)}, of DEFENSE or of each: exit code {CLAIM_NOT_SHOWN} '
        "unless it holds beyond chance; may be repeated",
    )
    gates.add_argument("--junit", metavar="FILE", default=None, help="write the verdicts of --gate as a JUnit file")


class Gates:
    """The gates of one command line.

    Raises:
        InputError: if one cannot be read, or the file of verdicts cannot be written.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._gates: list[Gate] = [parse_gate(text) for text in arguments.gate]
        self._junit = None if arguments.junit is None else Path(arguments.junit)
        if self._junit is not None:
            if not self._gates:
                raise InputError("--junit is for the verdicts of --gate; give a claim, or leave --junit out")
            if self._junit.is_dir() or not self._junit.parent.is_dir():
                raise InputError(f"--junit {self._junit}: not a file in a folder that exists; name one")

    def require_asked(self, defenses: Collection[str]) -> None:
        """Check that they can be asked of a run with `defenses`, before it computes anything."""
        for gate in self._gates:
            require_asked(gate, defenses)

    def judge(self, catalog: Catalog, run_id: str, *, quiet: bool) -> int:
        """Print the verdicts, unless `quiet` those that hold, write the file, and return the exit code."""
        if not self._gates:
            return 0
        results = ask(catalog, lambda reader: read_results(reader, find_run(reader, run_id)))
        judged = judge_gates(results, self._gates)
        if self._junit is not None:
            write_whole(self._junit, junit_file(run_id, judged))
        missed = [each for each in judged if each.verdict != "holds"]
        for each in judged:
            if each in missed:
                print(f"igd: gate: {each}", file=sys.stderr)
            elif not quiet:
                print(f"gate: {each}")
        return CLAIM_NOT_SHOWN if missed else 0
