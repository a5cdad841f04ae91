"""The lease loop by itself, on workers that only pretend: what is lost comes back, what kills is given up."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igd_ray.catalog import Catalog, run_query
from igd_ray.cluster.leases import MOST_CRASHES, MOST_LOSSES, Died, Event, LeaseLoop, Ready, Reported
from igd_ray.cluster.simulated import LoopCost, loop_cost
from igd_ray.errors import IgdError
from igd_ray.execution.executor import AttemptLog
from igd_ray.execution.queue import SOURCE_FAILED, Halving
from igd_ray.units.base import Shard, Unit, UnitReport


@dataclass(frozen=True)
class NoOp(Unit):
    """A unit that computes nothing."""

    name: str
    shard: Shard = field(default_factory=lambda: images(1))
    kind: str = "no-op"
    tables = ("outcomes",)
    needs: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        return self.name

    def compute(self, context: object) -> dict[str, list[dict[str, object]]]:
        return {"outcomes": []}


@dataclass(frozen=True)
class Divisible(NoOp):
    """One that can be halved."""

    def halved(self) -> tuple["Divisible", ...]:
        return tuple(
            replace(self, name=f"{self.name}{end}", shard=half)
            for end, half in zip("ab", self.shard.halves(), strict=True)
        )


def images(n: int) -> Shard:
    return Shard("test", 0, n, tuple(f"image-{index}" for index in range(n)), "digest")


def fine(unit: Unit) -> UnitReport:
    return UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0)


def wrong(unit: Unit, **how: bool) -> UnitReport:
    return UnitReport(unit.key, unit.kind, len(unit.shard.ids), 0.0, "ValueError: no", **how)


Answer = Callable[[Unit, int], UnitReport | str | None]


class Pretended:
    """Workers that answer as `answer` says for a unit and its attempt: a report, how they die, or None for never."""

    def __init__(self, count: int, answer: Answer) -> None:
        self._count = count
        self._answer = answer
        self._next = 0
        self._here: set[int] = set()
        self._events: list[Event] = []
        self.busiest = 0
        self.leased: list[tuple[int, str]] = []

    def grow(self) -> None:
        while len(self._here) < self._count:
            self._here.add(self._next)
            self._events.append(Ready(self._next, 1000 + self._next, "host"))
            self._next += 1

    def lease(self, worker: int, unit: Unit, attempt: int) -> None:
        assert worker in self._here
        self.leased.append((worker, unit.key))
        said = self._answer(unit, attempt)
        if isinstance(said, UnitReport):
            self._events.append(Reported(worker, replace(said, attempt=attempt)))
        elif said is not None:
            self._here.discard(worker)
            self._events.append(Died(worker, "gone", said))

    def events(self, timeout: float) -> Sequence[Event]:
        if not self._events:
            time.sleep(timeout)
        happened, self._events = self._events, []
        return happened

    def finish(self, report: Reported) -> None:
        """Have a worker that never answered do so after all."""
        self._events.append(report)

    def end(self, worker: int) -> None:
        self._here.remove(worker)


def run(
    catalog: Catalog, units: Sequence[Unit], answer: Answer, *, workers: int = 2, seconds: float = 60.0
) -> tuple[list[UnitReport], Pretended]:
    pretended = Pretended(workers, answer)
    loop = LeaseLoop(pretended, AttemptLog(catalog), Halving(catalog), seconds=seconds)
    return list(loop.run(units)), pretended


def outcomes(catalog: Catalog) -> list[tuple[str, int, str]]:
    rows = run_query(catalog, "SELECT unit_key, attempt, outcome FROM attempts ORDER BY ALL").to_pylist()
    return [(row["unit_key"], row["attempt"], row["outcome"]) for row in rows]


EXAMPLES = count()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fates=st.lists(st.lists(st.sampled_from(["crashed", "lost", "error"]), max_size=2), min_size=1, max_size=12),
    workers=st.integers(1, 4),
)
def test_every_unit_is_reported_once_however_often_its_workers_go(
    catalog: Catalog, fates: list[list[str]], workers: int
) -> None:
    example = next(EXAMPLES)
    fate = {f"example-{example}-{index}": [*each, "done"] for index, each in enumerate(fates)}

    def answer(unit: Unit, attempt: int) -> UnitReport | str:
        said = fate[unit.key][attempt - 1]
        return {"done": fine(unit), "error": wrong(unit)}.get(said, said)

    reports, _ = run(catalog, [NoOp(key) for key in fate], answer, workers=workers)
    assert Counter(report.key for report in reports) == Counter(list(fate))
    for report in reports:
        twice_wrong = fate[report.key].count("error") == 2
        assert (report.error is not None) == twice_wrong
    for key, attempt, outcome in outcomes(catalog):
        assert key not in fate or fate[key][attempt - 1] == outcome


@pytest.mark.parametrize(("death", "most"), [("crashed", MOST_CRASHES), ("lost", MOST_LOSSES)])
def test_a_unit_whose_workers_always_die_is_quarantined(catalog: Catalog, death: str, most: int) -> None:
    units = [NoOp("deadly"), *(NoOp(f"u{index}") for index in range(5))]
    reports, _ = run(catalog, units, lambda unit, _: death if unit.key == "deadly" else fine(unit))
    (bad,) = (report for report in reports if report.error is not None)
    assert (bad.key, bad.attempt) == ("deadly", most)
    assert f"quarantined: its worker {'was lost' if death == 'lost' else 'died'} {most} times" in str(bad.error)
    assert len(reports) == 6
    assert [row for row in outcomes(catalog) if row[0] == "deadly"] == [
        ("deadly", attempt, death) for attempt in range(1, most + 1)
    ]


def test_errors_of_all_units_do_not_replace_workers_for_ever(catalog: Catalog) -> None:
    # As a bad setting has it: nothing tells that workers are to blame.
    units = [NoOp(f"u{index}") for index in range(40)]
    reports, workers = run(catalog, units, lambda unit, _: wrong(unit), workers=2)
    assert len(reports) == 40
    assert len(workers.leased) == 80, "each is tried twice"
    assert len({worker for worker, _ in workers.leased}) <= 2 + 3


def test_no_worker_is_asked_for_while_one_is_idle(catalog: Catalog) -> None:
    class Growing(Pretended):
        """A cluster that starts one more worker whenever it is asked."""

        def grow(self) -> None:
            self._count = len(self._here) + 1
            super().grow()

    workers = Growing(1, lambda unit, _: fine(unit))
    chain = [after(f"u{index}", *([f"u{index - 1}"] if index else [])) for index in range(50)]
    assert sum(1 for _ in LeaseLoop(workers, AttemptLog(catalog), Halving(catalog)).run(chain)) == 50
    assert len(workers._here) <= 3


def test_an_error_is_tried_once_more_on_another_worker_and_then_reported(catalog: Catalog) -> None:
    reports, workers = run(catalog, [NoOp("u")], lambda unit, _: wrong(unit), workers=1)
    assert [(report.error, report.attempt) for report in reports] == [("ValueError: no", 2)]
    assert workers.leased == [(0, "u"), (1, "u")]


def test_a_worker_that_answers_errors_at_once_does_not_drain_the_units(catalog: Catalog) -> None:
    # As with a mount that is gone, or a CUDA context that an error of a kernel left unusable.
    broken = 0

    def answer(unit: Unit, attempt: int) -> UnitReport:
        worker, _ = workers.leased[-1]
        return wrong(unit) if worker == broken else fine(unit)

    workers = Pretended(2, answer)
    loop = LeaseLoop(workers, AttemptLog(catalog), Halving(catalog))
    reports = list(loop.run([NoOp(f"u{index}") for index in range(12)]))
    assert [report.error for report in reports] == [None] * 12
    assert [worker for worker, _ in workers.leased].count(broken) == 1


def test_a_hung_unit_is_taken_from_its_worker_at_the_deadline(catalog: Catalog) -> None:
    units = [NoOp("hung"), NoOp("u")]
    answer: Answer = lambda unit, attempt: None if (unit.key, attempt) == ("hung", 1) else fine(unit)  # noqa: E731
    started = time.monotonic()
    reports, workers = run(catalog, units, answer, workers=1, seconds=0.2)
    assert 0.2 <= time.monotonic() - started < 10
    assert {report.key for report in reports} == {"hung", "u"}
    assert all(report.error is None for report in reports)
    assert outcomes(catalog) == [("hung", 1, "timeout"), ("hung", 2, "done"), ("u", 1, "done")]
    assert len({worker for worker, _ in workers.leased}) == 2


@pytest.mark.parametrize("how", ["report", "memory"])
def test_without_memory_a_unit_is_run_in_parts_and_the_size_is_remembered(catalog: Catalog, how: str) -> None:
    def answer(unit: Unit, _attempt: int) -> UnitReport | str:
        if len(unit.shard.ids) <= 2:
            return fine(unit)
        return wrong(unit, out_of_memory=True) if how == "report" else "memory"

    units = [Divisible("u", images(7)), Divisible("v", images(8))]
    reports, workers = run(catalog, units, answer, workers=1)
    computed = [report for report in reports if not report.parts]
    assert all(report.error is None for report in reports)
    # 7 = 4 + 3 = (2 + 2) + (2 + 1): twice without memory; 8 = 2 + 2 + 2 + 2 without another attempt.
    assert sorted(report.key for report in computed) == ["uaa", "uab", "uba", "ubb", "vaa", "vab", "vba", "vbb"]
    assert [key for key, _, outcome in outcomes(catalog) if outcome == "split"] == ["u", "ua"]
    assert len(workers.leased) == 2 + 8
    # A later run knows, too.
    again, workers = run(catalog, units, answer, workers=1)
    assert len(workers.leased) == 8
    assert sum(report.images for report in again if not report.parts) == 15


def test_a_single_image_without_memory_is_an_error(catalog: Catalog) -> None:
    (report,), _ = run(catalog, [Divisible("u", images(1))], lambda unit, _: wrong(unit, out_of_memory=True))
    assert report.error == "ValueError: no"


def test_units_alike_stay_with_a_worker_but_long_ones_start_first(catalog: Catalog) -> None:
    kinds = [replace(NoOp(f"{kind}{index}"), kind=kind) for index in range(3) for kind in ("x", "y")]
    _, workers = run(catalog, kinds, lambda unit, _: fine(unit), workers=2)
    first, second = (next(key for worker, key in workers.leased if worker == number) for number in (0, 1))
    assert {first, second} == {"x0", "y0"}
    for number in (0, 1):
        assert len({key[0] for worker, key in workers.leased if worker == number}) == 1


def after(key: str, *needs: str) -> NoOp:
    return NoOp(key, needs=frozenset(needs))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), workers=st.integers(1, 4))
def test_a_unit_is_leased_only_after_all_that_it_needs_is_done(
    catalog: Catalog, data: st.DataObject, workers: int
) -> None:
    example = next(EXAMPLES)
    keys = [f"needy-{example}-{index}" for index in range(data.draw(st.integers(1, 10)))]
    units = [
        after(key, *data.draw(st.sets(st.sampled_from(keys[:index]), max_size=3)) if index else ())
        for index, key in enumerate(keys)
    ]
    fates = {key: data.draw(st.sampled_from(["done", "done", "crashed once", "deadly", "error"])) for key in keys}
    done: set[str] = set()
    needs = {unit.key: unit.needs for unit in units}

    def answer(unit: Unit, attempt: int) -> UnitReport | str:
        assert unit.needs <= done
        fate = fates[unit.key]
        if fate == "deadly" or (fate == "crashed once" and attempt == 1):
            return "crashed"
        if fate == "error":
            return wrong(unit)
        done.add(unit.key)
        return fine(unit)

    reports, workers_used = run(catalog, data.draw(st.permutations(units)), answer, workers=workers)
    assert Counter(report.key for report in reports) == Counter(keys)
    lost: set[str] = set()
    for key in keys:
        if fates[key] in ("deadly", "error") or needs[key] & lost:
            lost.add(key)
    assert {report.key for report in reports if report.error is not None} == lost
    doomed = {key for key in lost if needs[key] & lost}
    assert {report.key for report in reports if report.error == SOURCE_FAILED} == doomed
    assert not doomed & {key for _, key in workers_used.leased}


def test_a_chain_goes_on_while_another_ones_long_unit_runs(catalog: Catalog) -> None:
    units = [NoOp("a0"), NoOp("long"), after("a1", "a0"), after("b1", "long"), after("a2", "a1")]
    workers = Pretended(2, lambda unit, _: None if unit.key == "long" else fine(unit))
    reports = LeaseLoop(workers, AttemptLog(catalog), Halving(catalog)).run(units)
    assert [next(reports).key for _ in range(3)] == ["a0", "a1", "a2"]
    (busy,) = (worker for worker, key in workers.leased if key == "long")
    workers.finish(Reported(busy, fine(units[1])))
    assert [report.key for report in reports] == ["long", "b1"]


@pytest.mark.parametrize(
    ("end", "error"), [("error", "ValueError: no"), ("crashed", "quarantined"), ("lost", "quarantined")]
)
def test_what_needs_a_unit_that_failed_for_good_fails_with_it_without_an_attempt(
    catalog: Catalog, end: str, error: str
) -> None:
    units = [NoOp("bad"), after("next", "bad"), after("last", "next"), NoOp("u")]

    def answer(unit: Unit, _attempt: int) -> UnitReport | str:
        return fine(unit) if unit.key == "u" else wrong(unit) if end == "error" else end

    reports, _ = run(catalog, units, answer)
    errors = {report.key: report.error for report in reports}
    assert len(reports) == 4
    assert str(errors.pop("bad")).startswith(error)
    assert errors == {"u": None, "next": SOURCE_FAILED, "last": SOURCE_FAILED}
    assert {key for key, _, _ in outcomes(catalog)} == {"bad", "u"}


@pytest.mark.parametrize("whole", [True, False])
def test_what_needs_a_divided_unit_waits_for_all_of_its_parts(catalog: Catalog, whole: bool) -> None:
    def answer(unit: Unit, _attempt: int) -> UnitReport:
        if unit.key == "uab" and not whole:
            return wrong(unit)
        return wrong(unit, out_of_memory=True) if len(unit.shard.ids) > 1 else fine(unit)

    reports, workers = run(catalog, [after("v", "u"), Divisible("u", images(3))], answer, workers=3)
    # 3 = 2 + 1 = (1 + 1) + 1; an error is tried twice.
    leased = Counter(key for _, key in workers.leased)
    parts = Counter(["u", "ua", "uaa", "uab", "ub"])
    assert leased == (parts + Counter(["v"]) if whole else parts + Counter(["uab"]))
    last = reports[-1]
    assert (last.key, last.error) == ("v", None if whole else SOURCE_FAILED)
    assert {report.key for report in reports if not report.parts} == {"uaa", "uab", "ub", "v"}


def test_units_that_need_each_other_do_not_hang(catalog: Catalog) -> None:
    with pytest.raises(IgdError, match="2 need each other"):
        run(catalog, [NoOp("u"), after("a", "b"), after("b", "a")], lambda unit, _: fine(unit))
    assert outcomes(catalog) == [("u", 1, "done")]


def test_a_driver_that_stops_ends_its_leases_and_notes_them_as_lost(catalog: Catalog) -> None:
    workers = Pretended(1, lambda unit, _: None if unit.key == "slow" else fine(unit))
    reports = LeaseLoop(workers, AttemptLog(catalog), Halving(catalog), seconds=0.5).run([NoOp("u"), NoOp("slow")])
    assert next(reports).key == "u"
    # The loop goes on to lease the next unit only when asked for the next report; a driver's signal comes then.
    workers.events = lambda timeout: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign,assignment]
    with pytest.raises(KeyboardInterrupt):
        next(reports)
    assert outcomes(catalog) == [("slow", 1, "lost"), ("u", 1, "done")]


def test_what_a_killed_driver_left_open_is_lost_after_two_minutes(catalog: Catalog) -> None:
    log = AttemptLog(catalog)
    log.start(NoOp("u"), worker=1, host="host")
    log.flush()
    assert outcomes(catalog) == [("u", 1, "running")]
    (key,) = catalog.keys("attempts")
    rows = catalog.read("attempts", key).to_pylist()
    old = [{**row, "seen_at": row["seen_at"].replace(year=2020)} for row in rows]
    catalog.commit("attempts", key, old, replace=True)
    assert outcomes(catalog) == [("u", 1, "lost")]
    # And the next session goes on counting.
    assert AttemptLog(catalog).start(NoOp("u"), worker=1, host="host") == 2


@pytest.mark.parametrize("length", [1, 17], ids=["free", "chains"])
def test_ten_thousand_units_take_linear_time_and_little_memory(tmp_path: Path, length: int) -> None:
    def cost(total: int) -> LoopCost:
        keys = [f"unit-{index}" for index in range(total)]
        units = [after(key, *keys[index - 1 : index] if index % length else ()) for index, key in enumerate(keys)]
        return loop_cost(tmp_path / f"{total}", units, slots=64)

    few, many = cost(2_000), cost(10_000)
    assert (few.units, many.units) == (2_000, 10_000)
    # A loop of quadratic time would take five times as long a unit.
    assert many.seconds_per_unit < 2.5 * few.seconds_per_unit
    # The driver keeps a counter a unit and the attempts of one file, and no more.
    assert many.bytes - few.bytes < 8_000 * 300
