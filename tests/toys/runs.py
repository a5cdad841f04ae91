"""Small evaluations of the embedded model, and what their catalogs hold."""

from pathlib import Path

from igd_ray.catalog import Catalog, run_query
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.execution.session import ExecutorFactory, RunSummary
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.verbs.evaluate import evaluate
from tests.toys.sessions import session_for

# Columns in which equal rows may differ.
UNEQUAL = ("seconds", "host", "attempt", "run_id")

SMALL = {
    "n": 24,
    "shard_size": 8,
    "probe_n": 200,
    "search_n": 100,
    "defenses": "none,loir-8,random-8",
    "attacks": "apgd-ce-5,square-20,tr-apgd-ce-5",
}


def settings_for(catalog: Path | str, **changes: object) -> EvaluateSettings:
    """Settings of a small evaluation."""
    return load_settings(EvaluateSettings, file=None, given={**SMALL, "catalog": str(catalog), **changes})


def run_evaluation(catalog: Path | str, executor: ExecutorFactory | None = None, **changes: object) -> RunSummary:
    """Run a small evaluation, in this process by default."""
    settings = settings_for(catalog, **changes)
    with session_for(settings, executor) as session:
        return evaluate(session, plan_evaluation(session.workspace))


def rows(catalog: Path | str, view: str = "outcomes") -> list[dict[str, object]]:
    """The rows of a view, without the columns in which equal rows may differ, in one order."""
    table = run_query(Catalog(catalog), f"SELECT * EXCLUDE ({', '.join(UNEQUAL)}) FROM {view}")
    return sorted(table.to_pylist(), key=lambda row: (row["defense"], row["attack"], row["image_id"]))
