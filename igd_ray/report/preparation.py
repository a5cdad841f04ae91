"""What came before the attacks on a run's model: searches and rankings, with their figures."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from igd_ray.catalog.files import write_whole
from igd_ray.report.evaluation import Ask
from igd_ray.report.figures import score_map, search_curve, standalone
from igd_ray.report.tables import Column, Table

# What fits on a page; the catalog holds the rest.
MOST_CLASSES, MOST_NEURONS, MOST_FIGURES = 20, 96, 6


class Ranking(NamedTuple):
    """A ranking on one page."""

    title: str
    facts: str
    figure: Markup


def search_table(ask: Ask, model_id: str | None) -> Table:
    """Return the finished searches on a model."""
    rows = ask("FROM searches WHERE model_id IS NOT DISTINCT FROM $1 ORDER BY search_id", model_id)
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
    return Table(columns, rows)


def search_figures(ask: Ask, searches: Table) -> list[tuple[str, Markup]]:
    """Return a figure for each of the first `searches`, with its title."""
    figures = []
    for search in searches.rows[:MOST_FIGURES]:
        trials = ask("FROM trials WHERE search_id = $1 ORDER BY trial", search["search_id"])
        if trials:
            figures.append(
                (f"{search['method']} at {search['layer']}, {len(trials)} trials", search_curve(search, trials))
            )
    return figures


def write_search_figure(ask: Ask, search_id: str, path: Path) -> None:
    """Write the figure of a search, finished or not, to `path` as an SVG file."""
    trials = ask("FROM trials WHERE search_id = $1 ORDER BY trial", search_id)
    chosen = ask("FROM searches WHERE search_id = $1", search_id)
    unfinished = {**trials[0], "k": None, "class_k": None, "clean_accuracy": None}
    write_whole(path, standalone(search_curve(chosen[0] if chosen else unfinished, trials)).encode())


def rankings(ask: Ask, model_id: str | None) -> list[Ranking]:
    """Return the first rankings of a model's neurons, each with a map of its scores."""
    found = ask(
        """
        SELECT
            ranking_id, method, layer, dataset, probe_images,
            count(DISTINCT class_id) AS classes, count(DISTINCT neuron) AS neurons
        FROM rankings
        WHERE model_id IS NOT DISTINCT FROM $1
        GROUP BY ALL
        ORDER BY method, layer, ranking_id
        LIMIT $2
        """,
        model_id,
        MOST_FIGURES,
    )
    return [Ranking(f"{row['method']} at {row['layer']}", _facts(row), _map(ask, row["ranking_id"])) for row in found]


def _facts(row: dict[str, Any]) -> str:
    facts = f"{row['classes']} classes × {row['neurons']} neurons"
    if row["probe_images"] is not None:
        facts += f", {row['probe_images']} probe images of {row['dataset']}"
    shown = (min(row["classes"], MOST_CLASSES), min(row["neurons"], MOST_NEURONS))
    if shown != (row["classes"], row["neurons"]):
        facts += f"; shown: {shown[0]} classes, {shown[1]} neurons"
    return f"{facts}; ranking {row['ranking_id']}"


def _map(ask: Ask, ranking_id: str) -> Markup:
    cells = ask(
        """
        WITH best AS (
            SELECT neuron, avg(rank) AS mean_rank
            FROM rankings
            WHERE ranking_id = $1
            GROUP BY neuron
            ORDER BY mean_rank, neuron
            LIMIT $3
        )
        SELECT class_id, any_value(coalesce(class_name, class_id::VARCHAR)) AS class_name,
            list(score ORDER BY mean_rank, neuron) AS scores
        FROM rankings
        JOIN best USING (neuron)
        WHERE ranking_id = $1
        GROUP BY class_id
        ORDER BY class_id
        LIMIT $2
        """,
        ranking_id,
        MOST_CLASSES,
        MOST_NEURONS,
    )
    return score_map(np.array([cell["scores"] for cell in cells]), [cell["class_name"] for cell in cells])
