"""The pictures that the pages of docs/ show, drawn of the committed rows; run as a program, this writes them anew."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from markupsafe import Markup

from igd_ray.catalog import ask
from igd_ray.catalog.query import Reader
from igd_ray.report.broken import Broken, attacks_on, read_broken, sets_of
from igd_ray.report.evaluation import robustness_panels
from igd_ray.report.figures.overlap import overlap
from igd_ray.report.figures.robustness import robustness
from igd_ray.report.figures.svg import standalone
from igd_ray.report.results import Results, find_run, read_results
from igd_ray.report.sentences import Claim, claims, worst_accuracy
from tests.published.published import REPOSITORY, catalog_of

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


def draw(name: str) -> str:
    """Return the text of a picture's SVG file."""
    run, drawn = PICTURES[name]
    return standalone(drawn(read(*run)))


if __name__ == "__main__":
    for name in PICTURES:
        (FOLDER / f"{name}.svg").write_text(draw(name), encoding="utf-8")
