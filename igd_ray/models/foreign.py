"""Somebody's code: whatever it does wrong, exits and prints included, becomes one line that names it."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from traceback import walk_tb
from typing import NoReturn

from igd_ray.errors import InputError, first_line
from igd_ray.models.sources import is_of_a_file


@contextmanager
def exits_raised() -> Iterator[None]:
    """While open, `os._exit` in this thread raises SystemExit as `sys.exit` does."""
    process, thread, leave = os.getpid(), threading.get_ident(), os._exit

    def refuse(status: int) -> NoReturn:
        # A child process that the code has forked ends as it wants to.
        if os.getpid() != process or threading.get_ident() != thread:
            leave(status)
        raise SystemExit(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


@contextmanager
def exits_refused(what: str) -> Iterator[None]:
    """While open, `sys.exit` and `os._exit` do not end this process.

    Args:
        what: the code that runs, for the message.

    Raises:
        InputError: if the code calls one of them.
    """
    try:
        with exits_raised():
            yield
    except SystemExit as error:
        raise InputError(
            f"{what} calls sys.exit or os._exit (status {error.code!r}), which would end igd; remove the call, "
            "or put it under `if __name__ == '__main__':`"
        ) from None


def exiting_file(error: SystemExit) -> str | None:
    """Return the name of the user's file whose code raised `error`; None where a signal or other code ends the process.

    Code of the user's may also end by way of a library, such as a parser of arguments.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if frame.f_globals.get("__name__") != __name__]
    # A cluster's handler of signals interrupts whatever runs, and must end the process.
    if not frames or str(frames[-1].f_globals.get("__name__")).partition(".")[0] == "ray":
        return None
    files = [frame.f_code.co_filename for frame in frames if is_of_a_file(str(frame.f_globals.get("__name__")))]
    return Path(files[-1]).name if files else None


@contextmanager
def contained(what: str = "") -> Iterator[None]:
    """Turn whatever somebody's code does wrong, other than to compute wrong values, into one line about it.

    Args:
        what: the code that runs, for the message; none where the caller names it.

    Raises:
        InputError: if it raises, exits or prints.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), exits_refused(what or "it"):
            yield
    except InputError:
        raise
    except Exception as error:  # somebody's code may fail in any way
        raise InputError(f"{f'{what}: ' if what else ''}{type(error).__name__}: {first_line(error)}") from error
    if text := printed.getvalue().strip():
        raise InputError(
            f"{what or 'it'} prints {text.splitlines()[0][:80]!r} among igd's results; remove it, or print to "
            "sys.stderr"
        )
