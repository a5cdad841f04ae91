"""Exits in somebody's code: an error of that code, not the end of this process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from igd_ray.errors import InputError


@contextmanager
def exits_refused(what: str) -> Iterator[None]:
    """While open, `sys.exit` and `os._exit` do not end this process.

    Args:
        what: the code that runs, for the message.

    Raises:
        InputError: if the code calls one of them.
    """
    process, leave = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        # A child process that the code has forked ends as it wants to.
        if os.getpid() != process:
            leave(status)
        raise SystemExit(status)

    os._exit = refuse
    try:
        yield
    except SystemExit as error:
        raise InputError(
            f"{what} calls sys.exit or os._exit (status {error.code!r}), which would end igd; remove the call, "
            "or put it under `if __name__ == '__main__':`"
        ) from None
    finally:
        os._exit = leave
