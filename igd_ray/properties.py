"""Properties of code of the user's: what is looked at, what was found, and what that means for an evaluation."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Literal

from igd_ray.errors import InputError, first_line
from igd_ray.models.exits import exits_refused

Result = Literal["ok", "warning", "error"]

Found = tuple[Result, str]

# The name of a property, what it means for an evaluation, and what finds out.
Check = tuple[str, str, Callable[[], Found]]


@dataclass(frozen=True)
class Property:
    """One property of a model, a defense, an attack or a ranking.

    Attributes:
        name: what is looked at.
        result: "error" where an evaluation would say nothing, "warning" where it has to be read with care.
        found: what was found.
        meaning: what it means for an evaluation.
    """

    name: str
    result: Result
    found: str
    meaning: str


class BrokenContractError(Exception):
    """An evaluation would say nothing: what was found."""


def properties_of(checks: Sequence[Check]) -> list[Property]:
    """Return what each of `checks` found, up to the first error; whatever somebody's code does wrong is one line."""
    properties = []
    for name, meaning, check in checks:
        try:
            with contained():
                result, found = check()
        except BrokenContractError as error:
            result, found = "error", str(error)
        properties.append(Property(name, result, found, meaning))
        if result == "error":
            break
    return properties


@contextmanager
def contained() -> Iterator[None]:
    """Turn whatever somebody's code does wrong, other than to compute wrong values, into one line.

    Raises:
        BrokenContractError: if it raises, exits or prints.
    """
    printed = io.StringIO()
    try:
        with exits_refused("it"), redirect_stdout(printed):
            yield
    except BrokenContractError:
        raise
    except InputError as error:
        raise BrokenContractError(str(error)) from None
    except Exception as error:  # somebody's code may fail in any way
        raise BrokenContractError(f"{type(error).__name__}: {first_line(error)}") from error
    if text := printed.getvalue().strip():
        raise BrokenContractError(f"it prints {text.splitlines()[0][:80]!r} among igd's results; print to sys.stderr")
