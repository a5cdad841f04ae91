"""`--dry-run`: what a plan would cost."""

from collections.abc import Sequence

import pyarrow as pa

from igd_ray.commands.output import show
from igd_ray.pipeline.estimate import costs, seconds_per_pass
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.unit import Unit


def show_costs(study: Study, units: Sequence[Unit], *, as_json: bool) -> None:
    """Print units, an upper bound of passes, and the time they would take on one worker of this machine."""
    example = next(iter(study.test.select([0]).batches(1)))[0]
    forward, backward = seconds_per_pass(study.model, example)
    rows = [
        {
            "what": cost.what,
            "units": cost.units,
            "done": cost.done,
            "forward_passes": cost.forwards,
            "backward_passes": cost.backwards,
            "worker_minutes": round((cost.forwards * forward + cost.backwards * backward) / 60, 2),
        }
        for cost in costs(study.catalog, units, num_classes=len(study.class_names))
    ]
    numbers = ("units", "done", "forward_passes", "backward_passes", "worker_minutes")
    total = {
        "what": "total",
        **{name: sum(row[name] for row in rows) for name in numbers},  # type: ignore[misc]
    }
    title = "At most, for the units not done yet, on one worker of this machine; nothing was run. Base model only"
    show(pa.Table.from_pylist([*rows, total]), as_json=as_json, title=None if as_json else title)
