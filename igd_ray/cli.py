"""The command line: parses, delegates, and turns failures into one line and an exit code."""

# Nothing else is imported here, so that Ctrl-C right after the start is told as it is later.
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from igd_ray.verbs import VERBS

# A longer word, such as a path or a number of thousands of characters, hides what an error says of it.
LONGEST_WORD = 300

BAD_INPUT, FAILED, INTERRUPTED, NO_READER, TERMINATED = 2, 1, 130, 141, 143


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the same as Ctrl-C, with another exit code."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `igd` with `arguments`, those of the process by default; return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # A caller that has a handler of its own, or runs this in a thread, keeps what it has.
    in_main = threading.current_thread() is threading.main_thread()
    handles = in_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    try:
        if handles:
            signal.signal(signal.SIGTERM, _terminate)
        if arguments is None:
            _read_as_utf8()
        return _exit_code(words)
    except KeyboardInterrupt as interrupt:
        said = str(interrupt) or "stopped; every finished unit is kept, run the same command again to go on"
        print(f"igd: {said}", file=sys.stderr)
        return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
    finally:
        if handles:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _read_as_utf8() -> None:
    """Start this process again in UTF-8, if a locale has made it read names, and print, as ASCII or Latin-1."""
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def _exit_code(words: list[str]) -> int:
    from igd_ray.errors import IgdError, InputError

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
    except SystemExit as leaving:
        # A file of the user's that a plan looks at does not choose the exit code. Without the module none was imported.
        exits = sys.modules.get("igd_ray.models.sources")
        file = exits.exiting_file(leaving) if exits is not None else None
        if file is None:
            raise
        print(f"igd: error: {file} calls sys.exit (status {leaving.code!r}); remove the call", file=sys.stderr)
        return BAD_INPUT


def _run(words: list[str]) -> int:
    import argparse
    from importlib import import_module

    from igd_ray.errors import InputError, did_you_mean
    from igd_ray.verbs import EXAMPLES
    from igd_ray.verbs.flags import Parser

    # From a shell none can come, but from a program: no path may have it, and no system call takes it.
    for word in words:
        if "\0" in word:
            raise InputError(f"argument {word!r}: expected a text without the character NUL")
    if not words or words[0].startswith("-"):
        _print_help(words)
        return 0
    verb = words[0]
    if verb not in VERBS:
        raise InputError(f"unknown verb {verb!r}; known: {', '.join(VERBS)}{did_you_mean(verb, VERBS)}")
    command = import_module(f"igd_ray.verbs.{verb}")
    parser = Parser(
        prog=f"igd {verb}",
        description=VERBS[verb],
        examples=EXAMPLES[verb],
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    known, unknown = parser.parse_known_args(words[1:])
    if unknown:
        flags = [flag for action in parser._actions for flag in action.option_strings]
        raise InputError(f"unknown argument {unknown[0]!r}; see `igd {verb} --help`{did_you_mean(unknown[0], flags)}")
    code: int = command.run(known)
    return code


def _print_help(words: list[str]) -> None:
    import argparse
    from importlib.metadata import version

    from igd_ray.verbs.flags import Parser

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
    parser.parse_args(words or ["--help"])


def _one_line(error: Exception) -> str:
    words = str(error).split()
    return " ".join(word if len(word) <= LONGEST_WORD else f"{word[:100]}…{word[-50:]}" for word in words)


if __name__ == "__main__":
    sys.exit(main())
