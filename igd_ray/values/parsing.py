"""Values of settings: how text becomes them, and in which ranges they lie."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from igd_ray.errors import InputError
from igd_ray.threat import parse_fraction
from igd_ray.values.plain_yaml import require_plain

# Beyond these nothing is evaluated that an evaluator would want, or ever ends.
SIGMA = (0.0, 10.0)
TAU = (1e-6, 1e6)
DRAWS = (1, 10_000)
MOST_TRIED = 1000
MOST_TRIALS = 100_000
MOST_SHARD_IMAGES = 100_000

# What stands between a file and the name of what is meant in it.
PART = "#"


def require_range(name: str, value: float, limits: tuple[float, float], unit: str = "") -> None:
    """Check that the setting `name` lies within `limits`, both included.

    Raises:
        InputError: with the limits, if it does not.
    """
    low, high = limits
    if not low <= value <= high:
        raise InputError(f"{name} must lie in {low:g}…{high:g}{unit}, not {value:g}")


def at_commas(value: object) -> object:
    """Split a text at its commas; anything else stays as it is.

    >>> at_commas("none, loir-50")
    ['none', 'loir-50']
    """
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def as_numbers(value: object) -> object:
    """Split a text at its commas, or read LOW:HIGH:COUNT as so many values that grow by equal factors.

    >>> [round(number, 6) for number in as_numbers("0.001:1:4")]
    [0.001, 0.01, 0.1, 1.0]

    Raises:
        InputError: if a grid has no such ends, or too many values.
    """
    ends = value.split(":") if isinstance(value, str) else []
    if len(ends) != 3:
        return at_commas(value)
    try:
        low, high, count = float(ends[0]), float(ends[1]), int(ends[2])
    except ValueError:
        low = high = count = 0
    if not (0 < low < high < math.inf and 2 <= count <= MOST_TRIED):
        raise InputError(
            f"a logarithmic grid is LOW:HIGH:COUNT with 0 < LOW < HIGH and COUNT in 2…{MOST_TRIED}, not {value!r}"
        )
    return [low * (high / low) ** (step / (count - 1)) for step in range(count)]


def whole_numbers(text: str) -> Sequence[int]:
    """Return the numbers that LOW:HIGH (both included), or numbers with commas, stand for, ascending.

    >>> list(whole_numbers("2:4")), whole_numbers("8,1")
    ([2, 3, 4], [1, 8])

    Raises:
        InputError: if there are none, or they are not whole numbers.
    """
    low, colon, high = text.partition(":")
    try:
        values = range(int(low), int(high) + 1) if colon else sorted({int(k) for k in text.split(",")})
    except ValueError:
        values = []
    if not values:
        raise InputError(f"ks must be LOW:HIGH with LOW ≤ HIGH, or numbers with commas, not {text!r}")
    return values


def _plain(value: object) -> object:
    """Take arguments that can stand in a key."""
    require_plain(value)
    return value


def file_and_part(file: str | Path) -> tuple[Path, str | None]:
    """Return the file, and the name of the state dict or array in it where one stands behind a "#".

    >>> file_and_part("net.pt#model_ema")[1]
    'model_ema'
    """
    path = Path(file)
    name, mark, part = path.name.rpartition(PART)
    # A file may have the mark in its name.
    return (path, None) if not mark or path.is_file() else (path.with_name(name), part)


Fraction = Annotated[float, BeforeValidator(parse_fraction)]
Arguments = Annotated[dict[str, Any], BeforeValidator(_plain)]
Listed = Annotated[tuple[str, ...], BeforeValidator(at_commas)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
Labels = Annotated[Listed, Field(min_length=1)]
