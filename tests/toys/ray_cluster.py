"""Several Ray nodes on this machine's loopback."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from igd_ray.cluster.session import LOOPBACK, import_ray


@contextmanager
def local_cluster() -> Iterator[Any]:
    """While open, a head without CPUs runs; nodes can be added, and their loss shows within two seconds."""
    # Workers and nodes started from here inherit what keeps Ray on the loopback.
    import_ray("")
    from ray.cluster_utils import Cluster

    before = os.environ.get("RAY_ADDRESS")
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": False,
            "node_ip_address": LOOPBACK,
            "_system_config": {
                "health_check_initial_delay_ms": 0,
                "health_check_period_ms": 500,
                "health_check_failure_threshold": 3,
            },
        },
    )
    os.environ["RAY_ADDRESS"] = cluster.address
    try:
        yield cluster
    finally:
        if before is None:
            del os.environ["RAY_ADDRESS"]
        else:
            os.environ["RAY_ADDRESS"] = before
        cluster.shutdown()


def raylet_of(node: Any) -> int:
    """The process of a node's raylet."""
    process: int = node.all_processes["raylet"][0].process.pid
    return process
