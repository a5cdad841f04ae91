"""The identity of code that is not the package's own."""

import inspect
from functools import cache
from pathlib import Path

from igd_ray.errors import InputError
from igd_ray.models.sources import model_sources, sources_digest

PACKAGE = __name__.partition(".")[0]


@cache
def code_digest(defined: type) -> str | None:
    """Return the SHA-256 of the file of the class `defined` and of the modules beside it that it imports.

    None for the package's own classes: a change of what they compute raises a version in `igd_ray.identity`.

    Raises:
        InputError: if the class does not come from a file, or a file cannot be read.
    """
    if defined.__module__.partition(".")[0] == PACKAGE:
        return None
    try:
        file = inspect.getfile(defined)
    except (TypeError, OSError):
        raise InputError(
            f"the source of {defined.__qualname__} was not found, so its results could not be told from those of "
            "other code; define it in a file"
        ) from None
    return sources_digest(model_sources(Path(file)))
