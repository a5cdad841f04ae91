"""The tables that README and the pages of docs/ print, and the committed rows that they come from."""

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from igd_ray.catalog import SCHEMAS, Catalog, named_query, run_query
from igd_ray.report.tables import print_table
from tests.toys.catalog_rows import add_plan, row

REPOSITORY = Path(__file__).resolve().parents[2]

# Rows of APGD with EoT on the base model as published, 20 gradients a step though there they are equal: kept to compare
# costs, and of no run.
PUBLISHED_EOT = "published-eot"


def catalog_of(rows: Iterable[Mapping[str, object]], folder: Path, *, config: str = "{}") -> Catalog:
    """Make a catalog of published outcome rows: one unit for each attack on each defense, every run finished.

    Where the rows are of an analysis, `config` says so.
    """
    catalog = Catalog(folder)
    catalog.create()
    runs: dict[str, dict[str, list[dict[str, object]]]] = defaultdict(lambda: defaultdict(list))
    for each in rows:
        key = re.sub(r"[^\w.-]", "_", f"{each['run_id']}-{each['defense']}-{each['attack']}")
        known = {name: value for name, value in each.items() if name in SCHEMAS["outcomes"].names}
        runs[str(each["run_id"])][key].append(row("outcomes", **{**known, "unit_key": key}))
    for run_id, units in runs.items():
        for key, outcomes in units.items():
            catalog.commit("outcomes", key, outcomes)
        if run_id != PUBLISHED_EOT:
            first = next(iter(units.values()))[0]
            facts = {name: first[name] for name in ("model", "model_id", "dataset", "norm", "epsilon")}
            moment = datetime(2026, 1, 1, tzinfo=UTC)
            catalog.commit(
                "runs", run_id, [row("runs", run_id=run_id, verb="evaluate", created_at=moment, config=config, **facts)]
            )
            # Every attack of a run is planned on all of its images.
            images = list(dict.fromkeys(str(each["image_id"]) for unit in units.values() for each in unit))
            plan = {key: (str(unit[0]["defense"]), str(unit[0]["attack"]), images) for key, unit in units.items()}
            add_plan(catalog, plan, run_id)
    return catalog


def printed(catalog: Catalog, query: str) -> str:
    """What `igd sql --file` prints for the query of that name."""
    text = io.StringIO()
    print_table(run_query(catalog, named_query(query)), console=Console(file=text, force_terminal=False))
    return text.getvalue()
