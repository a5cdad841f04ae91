"""A catalog as large as full evaluations leave, of made-up verdicts, to be measured."""

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from igd_ray.catalog import SCHEMAS, Catalog
from igd_ray.protocol import NINE_ATTACKS

DEFENSES = ("none", "loir-8", "loir-16", "loir-32", "cdir-16")

# The shares of images that a model gets right without an attack, and that one attack breaks.
RIGHT, BROKEN = 0.85, 0.12

EPSILON, CLASSES = 8 / 255, 10

# Of a unit, as `igd evaluate` has it by default.
SHARD_IMAGES = 64

# A row group of the one sorted file, as DuckDB writes it.
GROUP_ROWS = 122_880


@dataclass(frozen=True)
class Size:
    """How large a catalog is: each run has all defenses, all nine attacks and as many images.

    Attributes:
        runs: how many there are.
        images: of each run.
    """

    runs: int
    images: int


def run_id_of(run: int) -> str:
    """Return the id of the run of this number."""
    return _digest("run", run)[:12]


def add_run(catalog: Catalog, run: int, images: int) -> pa.Table:
    """Commit the run of this number, unit by unit as workers do.

    Returns:
        its outcomes with the run's id before them, sorted by defense, attack and image.
    """
    ids = [f"image-{number:06d}" for number in range(images)]
    labels = np.random.default_rng(run).integers(0, CLASSES, images).astype(np.int32)
    run_id, units, tables = run_id_of(run), [], []
    for number, defense in enumerate(sorted(DEFENSES)):
        is_right = np.random.default_rng([run, number]).random(images) < RIGHT
        for attack in sorted(NINE_ATTACKS):
            chance = np.random.default_rng([run, number, NINE_ATTACKS.index(attack)])
            is_broken = is_right & (chance.random(images) < BROKEN)
            for start in range(0, images, SHARD_IMAGES):
                part = slice(start, start + SHARD_IMAGES)
                key = _digest(run, defense, attack, start)[:32]
                rows = _outcomes(
                    {"unit_key": key, "defense": defense, "attack": attack, "seed": run},
                    ids[part],
                    labels[part],
                    is_right[part],
                    is_broken[part],
                )
                catalog.commit("outcomes", key, rows)
                tables.append(rows)
                unit = {"run_id": run_id, "unit_key": key, "kind": "attack", "defense": defense, "attack": attack}
                units.append({**unit, "reported": True, "image_ids": ids[part]})
    catalog.commit("run_units", run_id, units)
    catalog.commit("runs", run_id, [_run_row(run, images)])
    outcomes = pa.concat_tables(tables)
    return outcomes.add_column(0, pa.field("run_id", pa.string()), pa.array([run_id] * len(outcomes)))


def write_sorted(path: Path, runs: Iterable[pa.Table]) -> None:
    """Write the outcomes of runs, each as `add_run` returns it, to one file."""
    remaining = iter(runs)
    first = next(remaining)
    with pq.ParquetWriter(path, first.schema, compression="zstd") as writer:
        for outcomes in itertools.chain([first], remaining):
            writer.write_table(outcomes, row_group_size=GROUP_ROWS)


def _run_row(run: int, images: int) -> dict[str, object]:
    return {
        "run_id": run_id_of(run),
        "verb": "evaluate",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=run),
        "model": "made-up",
        "model_id": _digest("model")[:32],
        "dataset": "made-up",
        "split": "test",
        "n": images,
        "norm": "linf",
        "epsilon": EPSILON,
        "seed": run,
        "config": "{}",
        "notes": [],
    }


def _outcomes(
    unit: dict[str, object], ids: list[str], labels: np.ndarray, is_right: np.ndarray, is_broken: np.ndarray
) -> pa.Table:
    """Return a unit's outcomes: of each image its id, its label, whether it is right at first and then broken."""
    clean = np.where(is_right, labels, (labels + 1) % CLASSES).astype(np.int32)
    values: dict[str, object] = {
        "image_id": ids,
        "label": labels,
        "clean_prediction": clean,
        "adversarial_prediction": np.where(is_broken, (labels + 2) % CLASSES, clean).astype(np.int32),
        "status": np.where(~is_right, "misclassified", np.where(is_broken, "broken", "robust")).tolist(),
        "broken_any": is_broken,
        "broken_majority": is_broken,
        "broken_all": is_broken,
    }
    known: dict[str, object] = {
        **unit,
        "model": "made-up",
        "model_id": _digest("model")[:32],
        "dataset": "made-up",
        "defense_id": _digest(unit["defense"])[:32],
        "norm": "linf",
        "epsilon": EPSILON,
        "distance": EPSILON,
        "queries": 1000,
        "forwards": 1000,
        "backwards": 900,
        "judge_draws": 1,
        "seconds": 0.5,
        "host": "here",
        "attempt": 1,
    }
    schema = SCHEMAS["outcomes"]
    columns = [
        pa.array(values[field.name], field.type)
        if field.name in values
        else pa.repeat(pa.scalar(known.get(field.name), field.type), len(ids))
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _digest(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()
