"""Runs planned units: skips committed units, and records those that fail."""

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from igd_ray.catalog import Catalog
from igd_ray.catalog.compaction import RunningMerge
from igd_ray.errors import IncompleteError
from igd_ray.execution.executor import Executor
from igd_ray.execution.progress import Progress
from igd_ray.identity import unit_key
from igd_ray.planning.evaluation import run_unit
from igd_ray.planning.workspace import AnyWorkspace
from igd_ray.units.base import Unit, UnitReport, host_name

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
    evaluates = verb == "evaluate"
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
