"""A session: the units of a run that are not committed yet, on an executor that starts when it is needed."""

import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

import pyarrow as pa

from igd_ray.catalog import SCHEMAS, Catalog
from igd_ray.catalog.compaction import FILES_OF_A_MERGE, KEEP_SECONDS, UNITS_OF_A_MERGE, compact
from igd_ray.checks import (
    check_few_classes,
)
from igd_ray.errors import IgdError, IncompleteError, first_line
from igd_ray.execution.executor import Executor
from igd_ray.execution.queue import Progress
from igd_ray.identity import unit_key
from igd_ray.planning.evaluation import EvaluationPlan, run_unit
from igd_ray.planning.rankings import RankingPlan, finish_ranking
from igd_ray.planning.search import SearchPlan, run_trials
from igd_ray.planning.training import SodefPlan
from igd_ray.planning.workspace import AnyWorkspace
from igd_ray.search import Trial
from igd_ray.units.base import Unit, UnitReport, host_name, reproducible
from igd_ray.units.checks.defense import compare_attacks, finding_row
from igd_ray.units.replica import WorkerSetup

# Settings of where a run computes, which change none of its results.
PLACE = {"catalog", "executor", "actors", "device", "unit_timeout"}


@dataclass(frozen=True)
class RunSummary:
    """Numbers of units of a run: committed before, computed now, failed."""

    reused: int
    computed: int
    failed: tuple[UnitReport, ...]


def pending(catalog: Catalog, units: Sequence[Unit]) -> list[Unit]:
    """Return the units without committed rows, each key once, in order; a damaged file holds none, and is set aside.

    Raises:
        IgdError: if a file cannot be read.
    """
    unique = {unit.key: unit for unit in units}
    keys: dict[str, list[str]] = {}
    for unit in unique.values():
        for table in unit.tables:
            keys.setdefault(table, []).append(unit.key)
    whole = {table: catalog.whole(table, wanted) for table, wanted in keys.items()}
    return [unit for unit in unique.values() if not all(unit.key in whole[table] for table in unit.tables)]


def run_units(executor: Executor, catalog: Catalog, units: Sequence[Unit], *, title: str) -> RunSummary:
    """Run the pending ones of `units`, which may need each other, with progress on the terminal.

    Args:
        executor: where they run.
        catalog: where they are committed.
        units: the plan.
        title: what the progress shows.
    """
    waiting = pending(catalog, units)
    planned = len({unit.key for unit in units})
    reused = planned - len(waiting)
    failed: list[UnitReport] = []
    computed = 0
    # Closed in any case, so that leases end now rather than when the generator is collected.
    with (
        RunningMerge(catalog) as merge,
        Progress(title, done=reused, total=planned) as progress,
        closing(executor.run(waiting)) as reports,
    ):
        for report in reports:
            progress.advance(report)
            if report.parts:
                continue
            if report.error is None:
                computed += 1
                merge.count()
            else:
                failed.append(report)
                record_failure(catalog, report)
    return RunSummary(reused=reused, computed=computed, failed=tuple(failed))


def record_failure(catalog: Catalog, report: UnitReport) -> None:
    """Commit the failure, so that the images of the unit count as errors until it succeeds."""
    # Each failure is a separate event, so its file needs a name of its own.
    catalog.commit(
        "failures",
        f"{report.key}-{uuid.uuid4().hex[:8]}",
        [
            {
                "unit_key": report.key,
                "kind": report.kind,
                "attempt": report.attempt,
                "error": report.error,
                "host": host_name(),
                "created_at": datetime.now(UTC),
            }
        ],
    )


def require_all(summary: RunSummary, what: str) -> None:
    """Check that no unit failed.

    Raises:
        IncompleteError: with the first failure and what to do.
    """
    if summary.failed:
        total = summary.reused + summary.computed + len(summary.failed)
        raise IncompleteError(
            f"{len(summary.failed)} of {total} {what} units failed, first {summary.failed[0].key[:12]}: "
            f"{summary.failed[0].error}; the others are kept, run the same command again to try these again"
        )


def commit_run(
    workspace: AnyWorkspace,
    *,
    run_id: str,
    verb: str,
    units: Sequence[Mapping[str, object]],
    notes: Sequence[str] = (),
) -> None:
    """Commit the run `run_id` and the rows of its `units` before it computes, so that unfinished units show.

    Args:
        workspace: the model, the data and the settings.
        run_id: the hash of what the run computes.
        verb: what computes it.
        units: rows of the table `run_units`.
        notes: for the report.
    """
    settings, catalog = workspace.settings, workspace.catalog
    catalog.create()
    catalog.commit("run_units", run_id, units)
    evaluates = verb in ("evaluate", "analyze")
    run = {
        "run_id": run_id,
        "verb": verb,
        "created_at": datetime.now(UTC),
        "model": workspace.source.label,
        "model_id": workspace.model_id,
        "dataset": settings.data,
        "split": settings.split if evaluates else None,
        "n": len(workspace.test) if evaluates else None,
        "norm": settings.norm.value if evaluates else None,
        "epsilon": settings.threat.epsilon if evaluates else None,
        "seed": settings.seed,
        "config": json.dumps(settings.model_dump(mode="json", exclude=PLACE), sort_keys=True),
        "notes": [*notes, *workspace.downloads],
    }
    catalog.commit("runs", run_id, [run])


def commit_stages(workspace: AnyWorkspace, verb: str, ids: Sequence[str], units: Sequence[Unit]) -> None:
    """Commit a run of `verb` that makes what `ids` name, such as rankings, by `units`."""
    run_id = unit_key("run", verb=verb, of=list(ids))[:12]
    rows = [run_unit(run_id, unit, None, None) for unit in {unit.key: unit for unit in units}.values()]
    commit_run(workspace, run_id=run_id, verb=verb, units=rows)


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

    def __exit__(self, *_error: object) -> None:
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


class RunningMerge:
    """Merges a catalog's small files while a run goes on and at its end; the run never waits for it, nor fails by it.

    Args:
        catalog: the run's.
    """

    def __init__(self, catalog: Catalog) -> None:
        # Its own, as a thread of its own uses it.
        self._catalog = Catalog(catalog.address)
        self._finished = 0
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "RunningMerge":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        if kind is None:
            if self._thread is not None:
                self._thread.join()
            # What earlier merges have replaced is deleted by later ones, also where too little is new.
            catalog = self._catalog
            if catalog.merged.numbers() or any(len(catalog.unmerged(each)) >= FILES_OF_A_MERGE for each in SCHEMAS):
                self._merge()

    def count(self) -> None:
        """Note that a unit is committed."""
        self._finished += 1
        if self._finished >= UNITS_OF_A_MERGE and (self._thread is None or not self._thread.is_alive()):
            self._finished = 0
            # A daemon: killed in the middle of it, a merge loses nothing.
            self._thread = threading.Thread(target=self._merge, daemon=True)
            self._thread.start()

    def _merge(self) -> None:
        try:
            compact(self._catalog, keep_seconds=KEEP_SECONDS, least=FILES_OF_A_MERGE)
        except (IgdError, OSError, pa.ArrowException) as error:
            self._catalog.tables.say(f"the small files of {self._catalog} were not merged: {first_line(error)}")


def commit_comparisons(catalog: Catalog, plan: EvaluationPlan, *, model: str) -> None:
    """Commit the checks that compare attacks with each other; every unit of the plan must be done."""
    rows: list[dict[str, object]] = []
    for defense in dict.fromkeys(cell.defense for cell in plan.cells):
        cells = [cell for cell in plan.cells if cell.defense == defense]
        for finding in compare_attacks(catalog, [cell.unit for cell in cells]):
            rows.append(finding_row(finding, None, plan.run_id, model, defense, None))
        attacks = {cell.attack for cell in cells}
        for attack, notes in plan.fallbacks.items():
            if notes and attack in attacks:
                rows.append(finding_row(check_few_classes(notes), None, plan.run_id, model, defense, attack))
    catalog.commit("checks", f"run-{plan.run_id}", rows)
