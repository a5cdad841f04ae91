"""What came before the attacks on a run's model: searches and rankings, with their figures."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from igd_ray.catalog.files import write_whole
from igd_ray.report.figures.images import picture, score_map
from igd_ray.report.figures.search import search_curve
from igd_ray.report.figures.svg import standalone
from igd_ray.report.results import MOST_CLASSES, MOST_NEURONS, Preparation, Rows
from igd_ray.report.tables import Column, Row, Table


class Ranking(NamedTuple):
    """A ranking on one page."""

    title: str
    facts: str
    figure: Markup


def search_table(preparation: Preparation) -> Table:
    """Return the finished searches on a model."""
    columns = [
        Column("method", "Method"),
        Column("layer", "Layer"),
        Column("k", "k", "number"),
        Column("sigma", "σ", "pixels"),
        Column("tau", "τ", "number"),
        Column("draws", "Draws", "number"),
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
        (f"{search['method']} at {search['layer']}, {len(trials)} trials", search_curve(search, trials))
        for search in preparation.searches
        if (trials := preparation.trials.get(search["search_id"]))
    ]


def write_search_figure(search: Row, trials: Rows, path: Path) -> None:
    """Write the figure of a search, finished or not, to `path` as an SVG file."""
    write_whole(path, standalone(search_curve(search, trials)).encode())


def rankings(preparation: Preparation) -> list[Ranking]:
    """Return the first rankings of a model's neurons, each with a map of its scores."""
    return [
        Ranking(f"{row['method']} at {row['layer']}", _facts(row), _map(preparation.scores[row["ranking_id"]]))
        for row in preparation.rankings
    ]


def pictures(preparation: Preparation) -> list[dict[str, str]]:
    """Return some adversarial points that broke a defense, as pictures with captions."""
    return [
        {
            "source": picture(row["shape"], row["pixels"]),
            "caption": f"{row['label']} → {row['prediction']}",
            "detail": f"{row['attack']} on {row['defense']}, image {row['image_id']}",
        }
        for row in preparation.points
    ]


def _facts(row: Row) -> str:
    facts = f"{row['classes']} classes × {row['neurons']} neurons"
    if row["probe_images"] is not None:
        facts += f", {row['probe_images']} probe images of {row['dataset']}"
    shown = (min(row["classes"], MOST_CLASSES), min(row["neurons"], MOST_NEURONS))
    if shown != (row["classes"], row["neurons"]):
        facts += f"; shown: {shown[0]} classes, {shown[1]} neurons"
    return f"{facts}; ranking {row['ranking_id']}"


def _map(cells: Rows) -> Markup:
    return score_map(np.array([cell["scores"] for cell in cells]), [cell["class_name"] for cell in cells])
