"""The queries that print tables of a paper say nothing of a run that has not finished."""

from collections.abc import Collection

import pytest

from igd_ray.catalog import Catalog, named_query, run_query
from igd_ray.protocol import NINE_ATTACKS
from tests.toys.catalog_rows import add_failure, add_outcomes, add_plan, add_run

ATTACKS = (*NINE_ATTACKS, "audit-joint-loss", "audit-line", "audit-best-start")
SHARDS = {"first": "abcd", "second": "efgh"}
UNITS = {f"{attack}-{shard}": (attack, images) for attack in ATTACKS for shard, images in SHARDS.items()}


def attacked(catalog: Catalog, run: str = "run", *, without: Collection[str] = ()) -> None:
    """Twelve attacks on two shards of four images, all robust, with the units `without` left undone."""
    add_run(catalog, run)
    plan = {f"{run}-{key}": ("loir-2", attack, images) for key, (attack, images) in UNITS.items()}
    add_plan(catalog, plan, run)
    for key, (attack, images) in UNITS.items():
        if key not in without:
            add_outcomes(catalog, f"{run}-{key}", "loir-2", attack, dict.fromkeys(images, "robust"))


def answer(catalog: Catalog, query: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = run_query(catalog, named_query(query)).to_pylist()
    return found


def test_a_finished_run_has_its_numbers(catalog: Catalog) -> None:
    attacked(catalog)
    (row,) = answer(catalog, "table8")
    assert (row["n"], row["aa"], row["iwwc"], row["audited"]) == (8, 100.0, 100.0, 100.0)
    assert [(each["attacked"], each["newly_broken"]) for each in answer(catalog, "audit")] == [(8, 0)] * 3


@pytest.mark.parametrize(
    "without",
    [
        pytest.param([key for key in UNITS if key.endswith("second")], id="the second shard"),
        pytest.param([key for key in UNITS if key.startswith(("audit-line", "audit-best"))], id="two audit attacks"),
        pytest.param(["audit-best-start-second"], id="one unit"),
    ],
)
def test_a_run_with_something_left_to_do_has_no_row(catalog: Catalog, without: list[str]) -> None:
    attacked(catalog, "begun", without=without)
    attacked(catalog, "whole")
    for query in ("table8", "audit"):
        assert {row["run_id"] for row in answer(catalog, query)} == {"whole"}


@pytest.mark.parametrize(
    ("failed", "cells"),
    [("audit-line-second", (100.0, 100.0, None)), ("aa-second", (None, None, None))],
)
def test_what_failed_is_no_number(catalog: Catalog, failed: str, cells: tuple[float | None, ...]) -> None:
    attacked(catalog, without=[failed])
    assert answer(catalog, "table8") == []
    add_failure(catalog, f"run-{failed}")
    (row,) = answer(catalog, "table8")
    assert (row["aa"], row["iwwc"], row["audited"]) == cells
    assert answer(catalog, "audit")[-1]["newly_broken"] is None
