"""A session: the units of one workspace run, on an executor that starts when there is something to run."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self

from igd_ray.execution.executor import Executor
from igd_ray.execution.run import RunSummary, pending, require_all, run_units
from igd_ray.planning.rankings import RankingPlan, finish_ranking
from igd_ray.planning.search import SearchPlan, run_trials
from igd_ray.planning.training import SodefPlan
from igd_ray.planning.workspace import AnyWorkspace
from igd_ray.search import Trial
from igd_ray.units.base import Unit, reproducible
from igd_ray.units.replica import WorkerSetup

ExecutorFactory = Callable[[WorkerSetup], AbstractContextManager[Executor]]


class Session:
    """Runs what was planned for a workspace; a context manager that stops what it started.

    Args:
        workspace: the model, its data and its catalog.
        executor: makes what units run on.
    """

    def __init__(self, workspace: AnyWorkspace, executor: ExecutorFactory) -> None:
        self.workspace = workspace
        self._make_executor = executor
        self._executor: Executor | None = None
        self._brought: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor = None
        self._stack.close()

    def prepare(self, units: Sequence[Unit]) -> None:
        """Read the images that pending `units` need, and make the executor, before anything is written.

        Raises:
            InputError: naming the image that cannot be read, or why units cannot run where they should.
        """
        if pending(self.workspace.catalog, units):
            self._make_executor(self.workspace.worker_setup())

    def run(self, units: Sequence[Unit], title: str) -> RunSummary:
        """Run the pending ones of `units`; nothing is started where all are done."""
        catalog = self.workspace.catalog
        if not pending(catalog, units):
            return RunSummary(reused=len({unit.key for unit in units}), computed=0, failed=())
        catalog.create()
        return run_units(self._started(), catalog, units, title=title)

    def rank(self, plan: RankingPlan) -> None:
        """Compute and commit a ranking, unless it is there.

        Raises:
            IncompleteError: if a unit failed.
        """
        catalog = self.workspace.catalog
        if catalog.has("rankings", plan.ranking_id):
            return
        catalog.create()
        require_all(self.run(plan.units, f"rank {plan.method}"), f"{plan.method} ranking")
        with reproducible():
            finish_ranking(catalog, plan)

    def train(self, plan: SodefPlan) -> None:
        """Train SODEF, unless it is trained.

        Raises:
            IncompleteError: if a unit failed.
        """
        require_all(self.run(plan.units, "train sodef"), "SODEF training")

    def run_trials(self, plan: SearchPlan) -> list[Trial]:
        """Run the trials of `plan` that are not there yet, and return all."""
        with reproducible():
            return run_trials(
                self.workspace.catalog,
                plan,
                self.workspace.source,
                lambda source, sampler, record: self._started().search(source, sampler, record),
            )

    def _started(self) -> Executor:
        """Return a running executor whose workers have brought along everything that plans use so far."""
        if self._executor is None or self.workspace.uses - self._brought:
            self._stack.close()
            setup = self.workspace.worker_setup()
            self._brought = set(self.workspace.uses)
            self._executor = self._stack.enter_context(self._make_executor(setup))
        return self._executor
