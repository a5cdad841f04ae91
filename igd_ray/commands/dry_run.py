"""`--dry-run`: what a plan would cost."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from igd_ray.commands.output import show
from igd_ray.pipeline.estimate import Cost, costs, most_passes, seconds_per_pass
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.unit import Unit


def show_costs(study: Study, units: Sequence[Unit], *, naive: Sequence[Unit] = (), as_json: bool) -> None:
    """Print units, an upper bound of passes, and the time they would take on one worker of this machine.

    Args:
        study: the model, and what its catalog holds.
        units: the plan.
        naive: what would do the same without it, each as often as it stands there; for comparison.
        as_json: print JSON.
    """
    example = next(iter(study.test.select([0]).batches(1)))[0]
    forward, backward = seconds_per_pass(study.model, example)
    rows = [_row(cost, forward, backward) for cost in costs(study.catalog, units, num_classes=len(study.class_names))]
    numbers = ("units", "done", "forward_passes", "backward_passes", "worker_minutes")
    total = {
        "what": "total",
        **{name: sum(row[name] for row in rows) for name in numbers},
    }
    rows.append(total)
    if naive:
        passes = [most_passes(unit, len(study.class_names)) for unit in naive]
        forwards, backwards = (sum(counts) for counts in zip(*passes, strict=True))
        separate = Cost("each attack and defense by itself", len(naive), 0, forwards, backwards)
        rows.append(_row(separate, forward, backward))
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
