"""Settings that come from the environment, where neither a flag nor a settings file says them."""

import os
from collections.abc import Mapping

from igd_ray.errors import InputError

CATALOG, EXECUTOR = "IGD_CATALOG", "IGD_EXECUTOR"

# Where units may run.
EXECUTORS = ("ray", "local")


def environment_settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the settings that variables of `environment` give; an empty one gives none.

    Raises:
        InputError: if a value cannot be used.

    >>> environment_settings({"IGD_CATALOG": "s3://BUCKET/results", "IGD_EXECUTOR": ""})
    {'catalog': 's3://BUCKET/results'}
    """
    given = {name: environment.get(variable) for name, variable in (("catalog", CATALOG), ("executor", EXECUTOR))}
    settings = {name: value for name, value in given.items() if value}
    if settings.get("executor", "ray") not in EXECUTORS:
        raise InputError(f"{EXECUTOR} must be one of {', '.join(EXECUTORS)}, not {settings['executor']!r}")
    return settings
