"""Settings from the command line, a YAML file and the environment; what cannot be used fails before work starts."""

from pathlib import Path
from typing import TypeVar

import pydantic

from igd_ray.config.base import WorkspaceSettings
from igd_ray.data.request import SETTINGS as DATA_SETTINGS
from igd_ray.data.request import with_options
from igd_ray.errors import InputError, did_you_mean
from igd_ray.values.environment import environment_settings
from igd_ray.values.plain_yaml import read_yaml

# A value longer than this hides what an error says of it.
LONGEST_VALUE_IN_ERROR = 200

Settings = TypeVar("Settings", bound=WorkspaceSettings)


def load_settings(kind: type[Settings], *, file: str | Path | None, given: dict[str, object]) -> Settings:
    """Return settings from the environment, overridden by a YAML `file`, if any, and by what was `given` as flags.

    Raises:
        InputError: for an unreadable file, an unknown setting (naming close matches), or a value that does not fit.
    """
    values: dict[str, object] = {**environment_settings(), **(read_yaml(file) if file is not None else {}), **given}
    known = [*kind.model_fields, *DATA_SETTINGS]
    for name in values:
        if name not in known:
            raise InputError(f"unknown setting {name!r}; known: {', '.join(known)}{did_you_mean(str(name), known)}")
    options = {name: str(values.pop(name)) for name in DATA_SETTINGS if values.get(name) is not None}
    if options:
        values["data"] = with_options(str(values.get("data", kind.model_fields["data"].default)), options)
    try:
        settings = kind(**values)  # type: ignore[arg-type]
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, InputError):
            raise cause from None
        name = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{name}: {first['msg'].lower()}, not {repr(first['input'])[:LONGEST_VALUE_IN_ERROR]}"
        ) from None
    settings.check()
    return settings
