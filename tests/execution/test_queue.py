"""The queue against a naive model of it: every unit runs once, after what it needs, or is doomed by what failed."""

import gc
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igd_ray.errors import IgdError
from igd_ray.execution.queue import LOOK_AHEAD, SOURCE_FAILED, ReadyQueue
from igd_ray.units.base import Shard, Unit, UnitReport

IMAGE = Shard("test", 0, 1, ("image",), "digest")


@dataclass(frozen=True)
class Step(Unit):
    """A unit that is never computed here."""

    name: str
    needs: frozenset[str] = frozenset()
    kind: str = "step"
    tables = ("outcomes",)
    shard: Shard = IMAGE

    @property
    def key(self) -> str:
        return self.name

    def compute(self, context: object) -> dict[str, list[dict[str, object]]]:
        return {"outcomes": []}


def step(key: str, *needs: str) -> Step:
    return Step(key, frozenset(needs))


@dataclass
class Model:
    """What a queue should do, by searching through lists."""

    waiting: list[Step]
    given: dict[str, Step] = field(default_factory=dict)
    parts: dict[str, list[str]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.given = {unit.key: unit for unit in self.waiting}
        self.order = list(self.given)

    def is_finished(self, key: str) -> bool:
        if key not in self.given:
            return True
        return key in self.done or (key in self.parts and all(map(self.is_finished, self.parts[key])))

    def is_lost(self, key: str) -> bool:
        if key not in self.given:
            return False
        sources = [*self.given[key].needs, *self.parts.get(key, ())]
        return key in self.failed or any(map(self.is_lost, sources))

    def next(self) -> Step | None:
        ready = (unit for unit in self.waiting if all(map(self.is_finished, unit.needs)))
        return next(ready, None)

    def doom(self) -> set[str]:
        lost = {unit.key for unit in self.waiting if self.is_lost(unit.key)}
        self.waiting = [unit for unit in self.waiting if unit.key not in lost]
        return lost

    def replace(self, unit: Step, parts: list[Step]) -> None:
        self.given |= {part.key: part for part in parts}
        self.parts[unit.key] = [part.key for part in parts]
        self.waiting = [*parts, *self.waiting]
        self.order = [*(part.key for part in parts), *self.order]

    def put_back(self, unit: Step, *, last: bool) -> None:
        if last:
            self.order.remove(unit.key)
            self.order.append(unit.key)
        self.waiting = sorted([*self.waiting, unit], key=lambda each: self.order.index(each.key))


@st.composite
def plans(draw: st.DrawFn) -> list[Step]:
    """Units that need some of those before them, and perhaps one that is not planned, in any order."""
    total = draw(st.integers(1, 9))
    units = []
    for index in range(total):
        sources = draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        planned_before = ["elsewhere"] if draw(st.booleans()) else []
        units.append(step(f"u{index}", *(f"u{source}" for source in sources), *planned_before))
    return draw(st.permutations(units))


@settings(deadline=None)
@given(plan=plans(), workers=st.integers(1, 4), data=st.data())
def test_every_unit_ends_once_after_its_needs_or_is_doomed_by_a_failure(
    plan: list[Step], workers: int, data: st.DataObject
) -> None:
    queue, model = ReadyQueue(plan), Model(list(plan))
    running: list[Step] = []
    doomed: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    returned: set[str] = set()
    while queue:
        while len(running) < workers:
            expected = model.next()
            unit = queue.take()
            assert unit == expected
            if unit is None:
                break
            model.waiting.remove(unit)
            running.append(unit)
        unit = running.pop(data.draw(st.integers(0, len(running) - 1)))
        fates = ["done", "done", "failed"]
        fates += ["divided"] if len(unit.key) < 4 else []
        fates += ["back"] if unit.key not in returned else []
        match data.draw(st.sampled_from(fates)):
            case "done":
                model.done.add(unit.key)
                queue.done(unit.key)
                ended[unit.key] += 1
            case "failed":
                model.failed.add(unit.key)
                lost = [each.key for each in queue.failed(unit.key)]
                assert sorted(lost) == sorted(model.doom())
                doomed.update(lost)
                ended[unit.key] += 1
            case "divided":
                parts = [replace(unit, name=f"{unit.key}{name}") for name in data.draw(st.sampled_from(["a", "ab"]))]
                model.replace(unit, parts)
                queue.replace(unit, parts)
            case "back":
                returned.add(unit.key)
                last = data.draw(st.booleans())
                model.put_back(unit, last=last)
                queue.put_back(unit, last=last)
    assert not running
    assert not model.waiting
    divided = model.parts.keys()
    assert ended + doomed == Counter(key for key in model.given if key not in divided)
    assert ended.keys() == model.done | model.failed
    assert all(model.is_finished(key) != model.is_lost(key) for key in model.given)


@given(kinds=st.lists(st.sampled_from("xyz"), max_size=30), wishes=st.lists(st.sampled_from(["", *"xyz"]), min_size=30))
def test_a_worker_gets_the_first_unit_or_one_like_its_last_that_is_near(kinds: list[str], wishes: list[str]) -> None:
    waiting = [Step(f"u{index}", kind=kind) for index, kind in enumerate(kinds)]
    queue = ReadyQueue(waiting)
    for wish in wishes[: len(kinds)]:
        near = waiting[:LOOK_AHEAD]
        expected = next((unit for unit in near if unit.kind == wish), near[0])
        assert queue.take(wish) == expected
        waiting.remove(expected)
    assert queue.take() is None


def test_a_unit_that_is_put_back_has_its_former_place_or_the_last() -> None:
    queue = ReadyQueue([step("longest"), step("long"), step("short")])
    longest, long = queue.take(), queue.take()
    assert (longest, long) == (step("longest"), step("long"))
    queue.put_back(step("long"), last=False)
    queue.put_back(step("longest"), last=False)
    assert queue.take() == step("longest")
    queue.put_back(step("longest"), last=True)
    assert [queue.take() for _ in range(3)] == [step("long"), step("short"), step("longest")]


def test_a_unit_waits_while_what_it_needs_runs() -> None:
    queue = ReadyQueue([step("second", "first"), step("first")])
    assert queue.take() == step("first")
    assert queue.take() is None
    queue.done("first")
    assert queue.take() == step("second", "first")
    assert queue
    queue.done("second")
    assert not queue


def test_a_key_given_twice_counts_once() -> None:
    queue = ReadyQueue([step("u"), step("u")])
    assert queue.take() == step("u")
    assert queue.take() is None


def test_a_failed_part_fails_the_unit_and_its_other_parts_still_run() -> None:
    unit, dependent = step("u"), step("v", "u")
    queue = ReadyQueue([unit, dependent])
    assert queue.take() == unit
    queue.replace(unit, [step("ua"), step("ub")])
    assert queue.take() == step("ua")
    assert queue.failed("ua") == [dependent]
    assert queue.take() == step("ub")
    queue.done("ub")
    assert not queue


def test_a_failure_is_reported_with_those_that_it_dooms() -> None:
    queue = ReadyQueue([step("u"), step("v", "u"), step("w", "v"), step("other")])
    queue.take()
    reports = queue.settle(UnitReport("u", "step", 1, 2.0, "ValueError: no", attempt=2))
    assert [(report.key, report.error) for report in reports] == [
        ("u", "ValueError: no"),
        ("v", SOURCE_FAILED),
        ("w", SOURCE_FAILED),
    ]
    assert queue.take() == step("other")


@pytest.mark.parametrize("circle", [[step("a", "a")], [step("a", "b"), step("b", "a")]], ids=["itself", "two"])
def test_units_that_need_each_other_are_an_error_once_nothing_else_is_left(circle: list[Step]) -> None:
    queue = ReadyQueue([*circle, step("free"), step("behind", "a")])
    assert queue.take() == step("free")
    assert queue.take() is None
    queue.done("free")
    message = rf"{len(circle) + 1} need each other, the first being a \(step\): plan them without cycles"
    with pytest.raises(IgdError, match=message):
        queue.take()


def test_a_long_chain_fails_as_a_whole() -> None:
    chain = [step("u0"), *(step(f"u{index + 1}", f"u{index}") for index in range(5000))]
    queue = ReadyQueue(reversed(chain))
    assert queue.take() == chain[0]
    assert queue.failed("u0") == chain[1:]
    assert not queue


@pytest.mark.parametrize("chain", [1, 17], ids=["free", "chains"])
def test_time_is_linear_in_units(chain: int) -> None:
    def cost(total: int) -> float:
        links = [(f"u{index}", f"u{index - 1}", index % chain == 0) for index in range(total)]
        units = [step(key) if is_first else step(key, before) for key, before, is_first in links]
        # The collector would walk the objects of every test that this process has run.
        gc.disable()
        started = time.process_time()
        queue = ReadyQueue(units)
        done = 0
        while (unit := queue.take("another//")) is not None:
            queue.done(unit.key)
            done += 1
        seconds = time.process_time() - started
        gc.enable()
        assert done == total
        return seconds

    # Ten times the units; a square would take a hundred times as long. The best of some, as others use the processor.
    least, most = (min(cost(total) for _ in range(5)) for total in (2_000, 20_000))
    assert most < 40 * least
