"""Workers commit to an object store by themselves, and the driver reads there what they wrote."""

import os
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cluster import RayExecutor, ray_session
from igd_ray.cluster.workers import RayWorkers
from tests.toys.loopback_store import loopback_store
from tests.toys.runs import rows, run_evaluation

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

CHANGES = {"n": 16, "defenses": "none,loir-8", "attacks": "square-20"}


def test_an_object_store_gives_the_rows_of_a_folder_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(_workers: RayWorkers) -> None:
        raise AssertionError("every worker sees the store")

    monkeypatch.setattr(RayWorkers, "_kept", kept)
    run_evaluation(tmp_path / "results", **CHANGES)
    uri = "s3://bucket/results"
    with loopback_store(tmp_path / "log"), ray_session(num_cpus=2):
        assert not run_evaluation(uri, executor=lambda setup: RayExecutor(setup, actors=2), **CHANGES).failed
        assert rows(uri) == rows(tmp_path / "results")
        workers = run_query(Catalog(uri), "SELECT DISTINCT worker FROM attempts")["worker"].to_pylist()
        assert workers
        assert os.getpid() not in workers
        assert not run_evaluation(uri, executor=lambda setup: RayExecutor(setup, actors=2), **CHANGES).computed
        assert not Catalog(uri).notes(), "the question of who shares the storage is cleared away"
