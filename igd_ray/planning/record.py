"""The record of a run: what it was asked, and which units it consists of, committed before it starts."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from igd_ray.config import StudySettings
from igd_ray.planning.workspace import Study

# Where a run runs changes nothing of what it computes.
PLACE = {"catalog", "executor", "actors", "device", "unit_timeout"}


def commit_run(
    study: Study,
    settings: StudySettings,
    *,
    run_id: str,
    verb: str,
    units: Sequence[Mapping[str, object]],
    notes: Sequence[str] = (),
) -> None:
    """Commit the run `run_id` and the rows of its `units`, so that what is unfinished shows."""
    study.catalog.create()
    study.catalog.commit("run_units", run_id, units)
    evaluates = verb == "evaluate"
    run = {
        "run_id": run_id,
        "verb": verb,
        "created_at": datetime.now(UTC),
        "model": study.source.label,
        "model_id": study.model_id,
        "dataset": settings.data,
        "split": settings.split if evaluates else None,
        "n": len(study.test) if evaluates else None,
        "norm": settings.norm.value if evaluates else None,
        "epsilon": settings.threat.epsilon if evaluates else None,
        "seed": settings.seed,
        "config": json.dumps(settings.model_dump(mode="json", exclude=PLACE), sort_keys=True),
        "notes": list(notes),
    }
    study.catalog.commit("runs", run_id, [run])
