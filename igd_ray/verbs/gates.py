"""Flags of verbs that end by a gate: claims that must hold, and the JUnit file that says which do."""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

from igd_ray.catalog import Catalog, ask
from igd_ray.catalog.files import write_whole
from igd_ray.errors import InputError
from igd_ray.report.records.gates import GRAMMAR, METRICS, Gate, judge_gates, junit_file, parse_gate, require_asked
from igd_ray.report.results import find_run, read_results

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
        require_asked(self._gates, defenses)

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
