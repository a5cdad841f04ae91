"""A Ray session: starts a local Ray on the loopback, or attaches to the cluster that RAY_ADDRESS names."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType

from igd_ray.cluster.local import guarded, make_token, own_handler_of_sigterm, private_folder, watched
from igd_ray.errors import IgdError, InputError, first_line

LOOPBACK = "127.0.0.1"

SECONDS_TO_ANSWER = 3.0

# What Ray takes in place of HOST:PORT.
WORDS_FOR_ADDRESSES = ("auto", "local")

# A local Ray binds the machine's own address, unless the node address is the loopback and the first variable is 0 when
# Ray is imported. The other variables turn off usage reports and messages.
LOCAL_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "RAY_DEDUP_LOGS": "0",
}


def import_ray(address: str) -> ModuleType:
    """Import ray; unless `address` is on another machine, with the environment that a Ray on the loopback needs."""
    host = address.rpartition(":")[0]
    if host not in ("", LOOPBACK, "localhost"):
        import ray

        return ray
    for name, value in LOCAL_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray
    from ray._private import ray_constants

    # If ray was imported before, it has already read the variable, and would look for the cluster on the loopback at
    # the machine's own address.
    ray_constants.ENABLE_RAY_CLUSTER = False
    return ray


def require_listener(address: str) -> None:
    """Check that something listens at HOST:PORT; Ray itself would try for minutes.

    Raises:
        InputError: if nothing does.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"RAY_ADDRESS={address}: no Ray cluster answers there ({first_line(error)}); "
            "start its head, or unset RAY_ADDRESS for a local Ray"
        ) from None


def require_usable(address: str) -> None:
    """Check what RAY_ADDRESS holds, before anything is written; where it is empty a local Ray starts.

    Raises:
        InputError: if it is not HOST:PORT, "auto" or "local", or nothing answers there.
    """
    if address.startswith("http"):
        raise InputError(
            f"RAY_ADDRESS must be HOST:PORT of a cluster, not {address!r}; "
            "for `ray job submit` set RAY_API_SERVER_ADDRESS instead"
        )
    if address and address not in WORDS_FOR_ADDRESSES and not re.fullmatch(r".+:\d{1,5}", address):
        raise InputError(f"RAY_ADDRESS must be HOST:PORT of a cluster, not {address!r}; unset it for a local Ray")
    require_listener(address)


def _init(ray: ModuleType, **options: object) -> None:
    """Start Ray, or attach to it.

    Raises:
        IgdError: if that fails, with the reason.
    """
    from ray._private import utils

    try:
        with own_handler_of_sigterm(utils):
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has no type for a node that does not come up
        ray.shutdown()
        place = options["address"]
        advice = (
            "is the machine busy? try again, or --executor local"
            if place == "local"
            else "does it have the token of RAY_AUTH_TOKEN_PATH, and the same version of Ray?"
        )
        raise IgdError(f"Ray ({place}) did not start: {first_line(error)}; {advice}") from error


@contextmanager
def ray_session(*, num_cpus: int | None = None, num_gpus: int | None = None) -> Iterator[ModuleType]:
    """While open, Ray runs: the cluster that RAY_ADDRESS names, the Ray of this process, or a local one.

    Args:
        num_cpus, num_gpus: logical resources of a local Ray; by default those of the machine.

    Raises:
        InputError: as `require_usable` does.
        IgdError: if Ray does not start, or the cluster refuses this process.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    ray = import_ray(address)
    if ray.is_initialized():
        yield ray
        return
    with ExitStack() as stack:
        if address:
            require_usable(address)
            _init(ray, address=address)
            stack.callback(ray.shutdown)
        else:
            folder = stack.enter_context(private_folder())
            make_token()
            _init(
                ray,
                address="local",
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                include_dashboard=False,
                _node_ip_address=LOOPBACK,
                _temp_dir=folder,
            )
            node = ray._private.worker._global_node
            stack.enter_context(guarded(node))
            stack.callback(ray.shutdown)
            stack.enter_context(watched(node))
        yield ray
