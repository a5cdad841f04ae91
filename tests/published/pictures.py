"""The pictures that the pages of docs/ show, drawn of the committed rows; run as a program, this writes them anew."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from markupsafe import Markup

from igd_ray.catalog import SCHEMAS, Catalog, ask
from igd_ray.catalog.query import Reader
from igd_ray.report.broken import Broken, attacks_on, read_broken, sets_of
from igd_ray.report.evaluation import robustness_panels
from igd_ray.report.figures.analyses import analysis_figure
from igd_ray.report.figures.overlap import overlap
from igd_ray.report.figures.robustness import robustness
from igd_ray.report.figures.svg import standalone
from igd_ray.report.results import Results, find_run, read_results
from igd_ray.report.sentences import Claim, claims, worst_accuracy
from igd_ray.verbs.analyze import rows_of
from tests.published.published import REPOSITORY, catalog_of
from tests.toys.catalog_rows import row

FOLDER = REPOSITORY / "docs" / "pictures"

# The run with nine attacks and the audit on all of 64 images, and that with tr-aa on eight defenses.
WORST_CASE, DEFENSES = ("cifar10-worst-case", "f76546e7cab5"), ("cifar10-defenses", "fd1890c8b63d")


class Published(NamedTuple):
    """A run of the committed rows, as its report reads it."""

    results: Results
    broken: Broken

    @property
    def claims(self) -> list[Claim]:
        """What it says of each defense."""
        return claims(self.results)


def read(rows: str, run_id: str) -> Published:
    """Return a run of ``docs/results/<rows>.parquet``."""

    def question(reader: Reader) -> Published:
        return Published(read_results(reader, find_run(reader, run_id)), read_broken(reader, run_id))

    with tempfile.TemporaryDirectory() as folder:
        found = pq.read_table(REPOSITORY / "docs" / "results" / f"{rows}.parquet").to_pylist()
        return ask(catalog_of([row for row in found if row["run_id"] == run_id], Path(folder) / "results"), question)


def _robustness(run: Published) -> Markup:
    rows, panels = robustness_panels(run.results)
    (base,) = (worst_accuracy(row) for row in run.results.worst_cases if row["defense"] == "none")
    return robustness(rows, panels, worst=2 if run.results.is_audited else 1, baseline=base)


def _overlap(run: Published) -> Markup:
    return overlap("loir-16", attacks_on(run.broken, "loir-16"), sets_of(run.broken)["loir-16"])


# By the name of the file: the run, and what is drawn of it.
PICTURES: dict[str, tuple[tuple[str, str], Callable[[Published], Markup]]] = {
    "cifar10-worst-case": (WORST_CASE, _robustness),
    "cifar10-broken-by": (WORST_CASE, _overlap),
    "cifar10-defenses": (DEFENSES, _robustness),
}


# Analyses on 200 images, by name: the analysis, the query that prints it, and its run. Three of them are pictures.
ANALYSES = {
    "cifar10-classwise": ("classwise", "per_class", "b959cfd6802d"),
    "cifar10-sensitivity-eps": ("sensitivity", "table10", "71b1896ad062"),
    "cifar10-overlap": ("overlap", "overlap", "03e2edea61ea"),
    "cifar10-cost": ("cost", "relative_cost", "48fef24aa70d"),
    "cifar10-sensitivity-k": ("sensitivity", "sensitivity", "8f83facd5b6c"),
    "cifar10-activations": ("activations", "activations", "6e0cd0909138"),
    "cifar10-loss-surface": ("loss-surface", "loss_surface", "0f5045e9937a"),
}


ANALYSIS_PICTURES = ("cifar10-sensitivity-k", "cifar10-activations", "cifar10-loss-surface")


def analyzed(name: str) -> list[dict[str, object]]:
    """Return the rows that `igd analyze` printed, asked anew of what its units committed."""
    analysis, query, run_id = ANALYSES[name]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "results"
        if analysis in ("sensitivity", "classwise"):
            rows = _committed("cifar10-analyses-outcomes", run_id)
            return list(rows_of(catalog_of(rows, place, config=f'{{"analysis": "{analysis}"}}'), query, run_id))
        catalog = Catalog(place)
        catalog.create()
        table, file = ("rankings", "-rankings") if analysis == "overlap" else ("measurements", "")
        units: dict[str, list[dict[str, object]]] = {}
        plan = []
        for found in _committed(f"cifar10-analyses{file}", run_id):
            key = str(found["ranking_id" if table == "rankings" else "unit_key"])
            if key not in units:
                kind, label = ("compared-ranking", found.get("label")) if table == "rankings" else ("measured", None)
                values = {"run_id": run_id, "unit_key": key, "kind": kind, "defense": label, "reported": False}
                plan.append(row("run_units", **values))
            known = {name: value for name, value in found.items() if name in SCHEMAS[table].names}
            units.setdefault(key, []).append(row(table, **known))
        for key, rows_of_unit in units.items():
            catalog.commit(table, key, rows_of_unit)
        catalog.commit("run_units", run_id, plan)
        return list(rows_of(catalog, query, run_id))


def _committed(file: str, run_id: str) -> list[dict[str, object]]:
    found = pq.read_table(REPOSITORY / "docs" / "results" / f"{file}.parquet").to_pylist()
    return [each for each in found if each["run_id"] == run_id]


def draw(name: str) -> str:
    """Return the text of a picture's SVG file."""
    if name in ANALYSES:
        return standalone(analysis_figure(ANALYSES[name][0], analyzed(name)))
    run, drawn = PICTURES[name]
    return standalone(drawn(read(*run)))


if __name__ == "__main__":
    for name in (*PICTURES, *ANALYSIS_PICTURES):
        (FOLDER / f"{name}.svg").write_text(draw(name), encoding="utf-8")
