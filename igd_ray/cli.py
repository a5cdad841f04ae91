"""The command line: parses, delegates, and turns failures into one line and an exit code."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from igd_ray.errors import IgdError, InputError, did_you_mean
from igd_ray.verbs.flags import Parser

# One module a verb, in `igd_ray/verbs/`; imported when asked for, so that `igd sql` does not wait for PyTorch.
VERBS = {
    "demo": "rank, search, attack and report on the embedded model, in minutes",
    "rank": "rank a layer's neurons for every class",
    "train": "train what a defense needs: SODEF's ODE block",
    "search": "find the smallest k that keeps clean accuracy, by bisection",
    "evaluate": "attack defenses and reduce to the image-wise worst case",
    "check": "check a defense of your own before it is evaluated",
    "new": "write a commented starting file for a defense of your own",
    "verify": "judge stored points again; fail where a stored verdict does not hold",
    "report": "write a run's tables, figures and checks as one HTML file, or as Markdown, LaTeX or JSON",
    "export": "write a run's evaluation card, verdicts, leaderboard entries and points for others",
    "sql": "query the catalog: one SELECT",
    "status": "show how far each run is, how fast, and what it costs",
    "compact": "merge the small files of a catalog",
    "submit": "run a verb as a job on a Ray cluster, with its log here",
    "zoo": "list RobustBench's models that can be ranked and defended, or check them",
    "bench": "measure what leasing a unit costs, how work scales, and how fast a catalog answers",
    "doctor": "check this machine: versions, GPU, disk, Ray's addresses and tokens",
}

# A longer word, such as a path or a number of thousands of characters, hides what an error says of it.
LONGEST_WORD = 300

BAD_INPUT, FAILED, INTERRUPTED, NO_READER = 2, 1, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `igd` with `arguments`, those of the process by default; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except InputError as error:
        print(f"igd: error: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except IgdError as error:
        print(f"igd: error: {_one_line(error)}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader (head, less) has what it wanted; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except OSError as error:
        print(f"igd: error: {_one_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or "stopped; every finished unit is kept, run the same command again to go on"
        print(f"igd: {said}", file=sys.stderr)
        return INTERRUPTED


def _run(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        _top_parser().parse_args(words or ["--help"])
        return 0
    verb = words[0]
    if verb not in VERBS:
        raise InputError(f"unknown verb {verb!r}; known: {', '.join(VERBS)}{did_you_mean(verb, VERBS)}")
    command = import_module(f"igd_ray.verbs.{verb}")
    parser = Parser(prog=f"igd {verb}", description=VERBS[verb], argument_default=argparse.SUPPRESS, allow_abbrev=False)
    command.add_arguments(parser)
    known, unknown = parser.parse_known_args(words[1:])
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise InputError(f"unknown argument {unknown[0]!r}; see `igd {verb} --help`{did_you_mean(unknown[0], flags)}")
    code: int = command.run(known)
    return code


def _top_parser() -> Parser:
    from importlib.metadata import version

    width = max(len(verb) for verb in VERBS)
    verbs = "\n".join(f"  {verb:{width}}  {summary}" for verb, summary in VERBS.items())
    parser = Parser(
        prog="igd",
        usage="igd VERB [flags]",
        description="Evaluate interpretability-guided test-time adversarial defenses.",
        epilog=f"verbs:\n{verbs}\n\nigd VERB --help shows a verb's flags.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"igd-ray {version('igd-ray')}")
    return parser


def _one_line(error: Exception) -> str:
    words = str(error).split()
    return " ".join(word if len(word) <= LONGEST_WORD else f"{word[:100]}…{word[-50:]}" for word in words)


if __name__ == "__main__":
    sys.exit(main())
