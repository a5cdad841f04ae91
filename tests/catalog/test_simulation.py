"""What a catalog promises, under every order of operations and with faults in any of them; see docs/promises.md.

More schedules, from a seed: `python -m tests.toys.simulation 100000 0`. A violation names its seed.
"""

from collections.abc import Iterator, Set

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from igd_ray.catalog import Catalog
from igd_ray.units.base import Rows
from tests.toys.simulation import FAULTS, Simulation, ViolationError, simulate_many, small_schemas

# In CI, in parts that the workers of pytest share.
SCHEDULES, PARTS = 100_000, 10


@pytest.fixture(autouse=True)
def small() -> Iterator[None]:
    with small_schemas():
        yield


class Schedule(RuleBasedStateMachine):
    """One schedule: which process does its next operation, and what happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation(units=1, workers=2)

    @rule(number=st.integers(0, 4), fault=st.sampled_from(FAULTS), operations=st.integers(1, 40))
    def advance(self, number: int, fault: str, operations: int) -> None:
        process = self.simulation.processes[number]
        if not process.is_over:
            self.simulation.advance(process, fault, operations)

    def teardown(self) -> None:
        try:
            self.simulation.finish()
        finally:
            self.simulation.stop()


def test_invariants_hold_whatever_hypothesis_tries() -> None:
    run_state_machine_as_test(
        Schedule,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            print_blob=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SCHEDULES, SCHEDULES // PARTS))
def test_invariants_hold_in_a_hundred_thousand_schedules(first: int) -> None:
    simulate_many(SCHEDULES // PARTS, first)


def torn_commit(self: Catalog, key: str, rows: dict[str, Rows]) -> bool:
    """Write each table but the last over whatever is there, as if a unit had one worker only."""
    for table, each in rows.items():
        self.commit(table, key, each, replace=table != list(rows)[-1])
    return True


def in_all_tables(self: Catalog, tables: tuple[str, ...], key: str) -> bool:
    return all(self.has(table, key) for table in tables)


def test_without_the_first_writer_winning_the_torn_unit_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Catalog, "commit_unit", torn_commit)
    monkeypatch.setattr(Catalog, "finish_unit", in_all_tables)
    with pytest.raises(ViolationError, match=r"seed \d+: (torn: u\d has points of attempt|rows of several attempts)"):
        simulate_many(200)


def test_a_merge_that_announces_over_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without create-if-absent of the log's entries."""

    def create(self: object, name: str, content: bytes) -> bool:
        self.write(name, content)  # type: ignore[attr-defined]
        return True

    monkeypatch.setattr("tests.toys.simulation.SimulatedPlace.create", create)
    with pytest.raises(ViolationError, match=r"seed \d+: "):
        simulate_many(200)


def test_an_answer_from_two_listings_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is merged between them counts in a file of its own and in the merged one."""

    def files(self: Catalog, table: str) -> dict[str, Set[str]]:
        alone = self.unmerged(table)
        return {**self.merged.files(table), **{f"{key}.parquet": frozenset() for key in sorted(alone)}}

    monkeypatch.setattr(Catalog, "files", files)
    with pytest.raises(ViolationError, match=r"seed \d+: an image more than once in \w+"):
        simulate_many(400)
