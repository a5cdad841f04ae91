"""The errors that a user sees: bad input, and a result that is not finished."""

import difflib
from collections.abc import Iterable


class IgdError(Exception):
    """An error whose message is one line: what was expected, what came, what to do."""


class InputError(IgdError, ValueError):
    """The user's input cannot be used; raised before work starts (exit code 2)."""


class IncompleteError(IgdError):
    """A result was requested before all of its units were committed (exit code 1)."""


# Longest part of another library's message that an error quotes.
FOREIGN_MESSAGE_LENGTH = 200


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, or the name of its type if the message is empty.

    >>> first_line(ValueError("bad header\\nat byte 7")), first_line(KeyError())
    ('bad header', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    return lines[0][:FOREIGN_MESSAGE_LENGTH] if lines else type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x' or 'y'?"`` for the close matches of `word` in `known`, or ``""``.

    >>> did_you_mean("hegde", ["hedge", "sodef"])
    "; did you mean 'hedge'?"
    """
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    if not matches:
        return ""
    return "; did you mean " + " or ".join(repr(match) for match in matches) + "?"
