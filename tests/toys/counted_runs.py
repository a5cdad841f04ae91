"""Runs the attacks and transfers of a small evaluation in this process; hooks count what each of them costs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file

from igd_ray.execution.queue import ReadyQueue
from igd_ray.models.demo import WEIGHTS_FILE
from igd_ray.planning.evaluation import EvaluationPlan, plan_evaluation
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.units.base import execute, is_done, reproducible
from igd_ray.units.judged import JudgedUnit
from igd_ray.units.replica import Context, ImageArrays, WorkerSetup
from tests.toys.counting import PassCounter
from tests.toys.runs import settings_for
from tests.toys.sessions import session_for

Passes = tuple[int, int]


@dataclass(frozen=True)
class Prepared:
    """An evaluation that is planned, with its rankings, and a worker's context whose replica counts its passes."""

    plan: EvaluationPlan
    context: Context
    counter: PassCounter

    @property
    def units(self) -> list[JudgedUnit]:
        """The attacks and transfers of the plan, each once."""
        return [unit for unit in self.plan.units if isinstance(unit, AttackUnit | TransferUnit)]

    def cells(self, defense: str) -> dict[str, JudgedUnit]:
        """The units of one defense by attack; of an evaluation with one shard."""
        return {cell.attack: cell.unit for cell in self.plan.cells if cell.defense == defense}

    def outcomes(self, unit: JudgedUnit) -> list[dict[str, object]]:
        """The rows that a unit committed."""
        rows: list[dict[str, object]] = self.context.catalog.read("outcomes", unit.key).to_pylist()
        return rows

    def recorded(self, unit: JudgedUnit) -> Passes:
        """The forward and backward passes that the outcomes of a unit say it took."""
        rows = self.outcomes(unit)
        return sum(int(str(row["forwards"])) for row in rows), sum(int(str(row["backwards"])) for row in rows)

    def run(self, units: Iterable[JudgedUnit] | None = None) -> Mapping[str, Passes]:
        """Run `units`, all of the plan by default, that are not done; return the passes that hooks counted, by key."""
        counted = {}
        waiting = [unit for unit in (self.units if units is None else units) if not is_done(self.context.catalog, unit)]
        queue = ReadyQueue(waiting)
        while (unit := queue.take()) is not None:
            self.counter.forwards = self.counter.backwards = 0
            with reproducible():
                report = execute(unit, self.context)
            assert report.error is None, report.error
            counted[unit.key] = self.counter.forwards, self.counter.backwards
            queue.done(unit.key)
        return counted


def prepare(catalog: Path, **changes: object) -> Prepared:
    """Plan an evaluation and compute its rankings."""
    settings = settings_for(catalog, **changes)
    with session_for(settings) as session:
        workspace = session.workspace
        workspace.catalog.create()
        plan = plan_evaluation(workspace)
        for ranking in plan.needed.rankings.values():
            session.rank(ranking)
        setup = WorkerSetup(workspace.source, workspace.catalog.address, {"test": ImageArrays.of(workspace.test)})
    context = Context(setup, "cpu")
    return Prepared(plan, context, PassCounter(context.model.conv1))


def model_that_is_always_wrong(folder: Path) -> dict[str, object]:
    """Settings of the demo model with its classes' neurons of the classifier moved by one."""
    (folder / "net.py").write_text("from igd_ray.models.demo import DemoResNet\n")
    weights = load_file(WEIGHTS_FILE)
    moved = {name: tensor.roll(1, dims=0) if name.startswith("linear.") else tensor for name, tensor in weights.items()}
    save_file(moved, folder / "net.safetensors")
    return {"model": f"{folder / 'net.py'}:DemoResNet", "weights": str(folder / "net.safetensors")}
