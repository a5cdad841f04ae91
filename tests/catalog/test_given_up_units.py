"""A unit that was given up because of its workers is told from one that failed by itself."""

from datetime import UTC, datetime

import pytest

from igd_ray.catalog import Catalog, run_query
from tests.toys.catalog_rows import add_failure, add_plan, add_run, row


@pytest.mark.parametrize(
    ("outcome", "error", "state"),
    [
        ("crashed", "quarantined: its worker died 3 times", "quarantined"),
        ("timeout", "quarantined: its worker was hung or died 3 times", "quarantined"),
        ("lost", "quarantined: its worker was lost 10 times", "quarantined"),
        ("error", "ValueError: no", "failed"),
        # Failed, and then started again by a driver that was killed.
        ("lost", "ValueError: no", "failed"),
    ],
)
def test_a_unit_whose_workers_died_hung_or_were_lost_is_quarantined(
    catalog: Catalog, outcome: str, error: str, state: str
) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "a")})
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    values = {"unit_key": "u", "attempt": 1, "session": "s", "started_at": moment, "ended_at": moment}
    catalog.commit("attempts", "u", [row("attempts", **values, outcome=outcome, seen_at=moment)])
    add_failure(catalog, "u", error)
    assert run_query(catalog, "SELECT state, error FROM unit_states").to_pylist() == [{"state": state, "error": error}]
