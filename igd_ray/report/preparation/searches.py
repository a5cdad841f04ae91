"""The searches on a run's model, with their figures."""

from pathlib import Path

from markupsafe import Markup

from igd_ray.catalog.places import write_whole
from igd_ray.report.figures.search import search_curve
from igd_ray.report.figures.svg import standalone
from igd_ray.report.preparation.stored import Preparation
from igd_ray.report.results import Rows
from igd_ray.report.tables import SETTING, Column, Row, Table


def search_table(preparation: Preparation) -> Table:
    """Return the finished searches on a model."""
    columns = [
        Column("method", "Method"),
        *SETTING,
        Column("clean_accuracy", "Clean", "percent"),
        Column("base_clean_accuracy", "Clean, undefended", "percent"),
        Column("tolerance", "Tolerance", "percent"),
        Column("n", "Images", "count"),
        Column("split", "Split"),
        Column("search_id", "Search"),
    ]
    return Table(columns, preparation.searches)


def search_figures(preparation: Preparation) -> list[tuple[str, Markup]]:
    """Return a figure for each of the first searches, with its title."""
    return [
        (f"{_name(search)}, {len(trials)} trials", search_curve(search, trials))
        for search in preparation.searches
        if (trials := preparation.trials.get(search["search_id"]))
    ]


def write_search_figure(search: Row, trials: Rows, path: Path) -> None:
    """Write the figure of a search, finished or not, to `path` as an SVG file."""
    write_whole(path, standalone(search_curve(search, trials)).encode())


def _name(search: Row) -> str:
    """Return the method, and the layer where masks are searched."""
    return str(search["method"]) if search["layer"] is None else f"{search['method']} at {search['layer']}"
