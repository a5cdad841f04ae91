"""A merge that is killed at any moment loses and doubles nothing."""

import multiprocessing
import os
import random
import signal
import time

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.catalog.compaction import compact
from tests.toys.catalog_rows import add_outcomes

pytestmark = pytest.mark.slow

MOMENTS = 50


def merge(catalog: Catalog) -> None:
    compact(Catalog(catalog.root), keep_seconds=0, settle_seconds=0)


def answer(catalog: Catalog) -> list[dict[str, object]]:
    sql = "SELECT unit_key, image_id, status FROM stored_outcomes ORDER BY ALL"
    rows: list[dict[str, object]] = run_query(Catalog(catalog.root), sql).to_pylist()
    return rows


def test_killed_at_fifty_moments_it_loses_and_doubles_nothing(catalog: Catalog) -> None:
    context = multiprocessing.get_context("fork")
    chance = random.Random(7)
    units = 0
    killed = 0
    longest = 0.5
    for moment in range(MOMENTS):
        for _ in range(3):
            add_outcomes(catalog, f"u{units}", "none", "aa", {"a": "robust", "b": "broken"})
            units += 1
        before = answer(catalog)
        assert len(before) == 2 * units
        process = context.Process(target=merge, args=(catalog,))
        started = time.monotonic()
        process.start()
        process.join(chance.uniform(0, longest))
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join(30)
            killed += 1
        else:
            longest = time.monotonic() - started
        assert process.exitcode in (0, -signal.SIGKILL)
        assert answer(catalog) == before, f"moment {moment}"
    assert killed > MOMENTS // 4
    merge(catalog)
    merge(catalog)
    assert answer(catalog) == before
    fresh = Catalog(catalog.root)
    assert all(fresh.read("outcomes", f"u{number}").num_rows == 2 for number in range(units))
