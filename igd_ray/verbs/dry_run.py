"""`--dry-run`: what a plan would cost."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from igd_ray.planning.cost import Cost, costs, seconds_per_pass
from igd_ray.planning.workspace import AnyWorkspace
from igd_ray.units.base import Unit
from igd_ray.units.judged import JudgedUnit
from igd_ray.verbs.output import show

_NUMBERS = ("units", "done", "forward_passes", "backward_passes", "worker_minutes")


def show_costs(
    workspace: AnyWorkspace,
    units: Sequence[Unit],
    *,
    naive: Sequence[Unit] = (),
    first: Sequence[Unit] = (),
    as_json: bool,
) -> None:
    """Print units, an upper bound of passes, and the time they would take on one worker of this machine.

    Args:
        workspace: the model, and what its catalog holds.
        units: the plan.
        naive: what would do the same attacks without it, each as often as it stands there, for comparison; neither
            checks nor an audit are among them, so that only the plan's other attacks compare with it.
        first: what --until decided does before it looks for the first time whether it may end.
        as_json: print JSON.
    """
    forward, backward = seconds_per_pass(workspace.model, workspace.example)
    num_classes = len(workspace.class_names)
    rows = [_row(cost, forward, backward) for cost in costs(workspace.catalog, units, num_classes=num_classes)]
    rows.append(_sum("total", rows))
    if first:
        until = [_row(cost, forward, backward) for cost in costs(workspace.catalog, first, num_classes=num_classes)]
        rows.append(_sum("of which before the first look, at which it may end", until))
    if naive:
        attacks = [unit for unit in units if isinstance(unit, JudgedUnit) and not unit.attack.audits]
        planned = [_row(cost, forward, backward) for cost in costs(workspace.catalog, attacks, num_classes=num_classes)]
        passes = [unit.most_passes(num_classes) for unit in naive]
        forwards, backwards = (sum(counts) for counts in zip(*passes, strict=True))
        separate = Cost("the same attacks, each defense by itself", len(naive), 0, forwards, backwards)
        rows += [_sum("of which attacks in the plan", planned), _row(separate, forward, backward)]
    title = "At most, for the units not done yet, on one worker of this machine; nothing was run. Base model only"
    show(pa.Table.from_pylist(rows), as_json=as_json, title=None if as_json else title)


def _row(cost: Cost, forward: float, backward: float) -> dict[str, Any]:
    return {
        "what": cost.what,
        "units": cost.units,
        "done": cost.done,
        "forward_passes": cost.forwards,
        "backward_passes": cost.backwards,
        "worker_minutes": round((cost.forwards * forward + cost.backwards * backward) / 60, 2),
    }


def _sum(what: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"what": what, **{name: round(sum(row[name] for row in rows), 2) for name in _NUMBERS}}
