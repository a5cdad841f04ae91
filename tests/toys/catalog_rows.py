"""Small rows for the tests of the catalog and the report: every column has a value, a test names those it is about."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from igd_ray.catalog import SCHEMAS, Catalog


def row(table: str, **values: object) -> dict[str, object]:
    """Return a row of `table` with NULL in each column that `values` does not name."""
    unknown = set(values) - set(SCHEMAS[table].names)
    assert not unknown, unknown
    return {name: values.get(name) for name in SCHEMAS[table].names}


def add_run(catalog: Catalog, run_id: str = "run", **values: object) -> None:
    """Commit a run."""
    known: dict[str, object] = {
        "verb": "evaluate",
        "created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "model": "demo",
        "model_id": "m0",
        "dataset": "digits",
        "split": "test",
        "n": 4,
        "norm": "linf",
        "epsilon": 0.1,
        "seed": 7,
        "config": "{}",
        "notes": [],
    }
    catalog.commit("runs", run_id, [row("runs", run_id=run_id, **{**known, **values})])


def add_plan(
    catalog: Catalog,
    units: Mapping[str, tuple[str | None, str | None, Sequence[str]]],
    run_id: str = "run",
    *,
    unreported: Sequence[str] = (),
) -> None:
    """Commit the plan of a run: unit key → (defense, attack, image ids)."""
    rows = [
        row(
            "run_units",
            run_id=run_id,
            unit_key=key,
            kind="attack" if attack else "ranking",
            defense=defense,
            attack=attack,
            reported=key not in unreported,
            image_ids=list(image_ids),
        )
        for key, (defense, attack, image_ids) in units.items()
    ]
    catalog.commit("run_units", run_id, rows)


def outcome(
    unit_key: str, defense: str, attack: str, image_id: str, status: str, **values: object
) -> dict[str, object]:
    """Return an outcome row of an image with label 1, whose clean prediction follows from `status`."""
    known: dict[str, object] = {
        "model": "demo",
        "dataset": "digits",
        "label": 1,
        "clean_prediction": 0 if status == "misclassified" else 1,
        "adversarial_prediction": 1 if status == "robust" else 0,
        "forwards": 10,
        "backwards": 5,
        "queries": 3,
        "seconds": 0.5,
    }
    merged = {**known, **values}
    return row(
        "outcomes", unit_key=unit_key, defense=defense, attack=attack, image_id=image_id, status=status, **merged
    )


def add_outcomes(catalog: Catalog, unit_key: str, defense: str, attack: str, statuses: Mapping[str, str]) -> None:
    """Commit a unit's outcomes: image id → status."""
    rows = [outcome(unit_key, defense, attack, image_id, status) for image_id, status in statuses.items()]
    catalog.commit("outcomes", unit_key, rows)


def add_failure(
    catalog: Catalog, unit_key: str, error: str = "out of memory", attempt: int = 1, *, hour: int = 0
) -> None:
    """Commit the failure of a unit's attempt, `attempt` minutes after `hour`, as an attempt follows another."""
    moment = datetime(2026, 1, 2, hour, tzinfo=UTC) + timedelta(minutes=attempt)
    known: dict[str, object] = {"kind": "attack", "host": f"worker {hour}", "created_at": moment}
    failure = row("failures", unit_key=unit_key, attempt=attempt, error=error, **known)
    catalog.commit("failures", f"{unit_key}-{hour}-{attempt}", [failure])
