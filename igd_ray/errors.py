"""The two kinds of failure that people see: something given cannot be used, or something is not finished."""

import difflib
from collections.abc import Iterable


class IgdError(Exception):
    """A failure told in one line: what was expected, what came, what to do."""


class InputError(IgdError, ValueError):
    """Something given by the user cannot be used; found before work starts (exit code 2)."""


class IncompleteError(IgdError):
    """A result was asked for before all of its units were committed (exit code 1)."""


# A foreign message longer than this hides ours.
FOREIGN_MESSAGE_LENGTH = 200


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, or its type's name if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:FOREIGN_MESSAGE_LENGTH] if lines else type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"`` for the close matches of `word` in `known`, or ``""``."""
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(match) for match in matches) + "?"
