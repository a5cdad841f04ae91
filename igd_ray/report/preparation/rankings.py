"""The rankings of a model's neurons, with maps of their scores."""

from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from igd_ray.report.figures.images import score_map
from igd_ray.report.preparation.stored import MOST_CLASSES, MOST_NEURONS, Preparation
from igd_ray.report.results import Rows
from igd_ray.report.tables import Row


class Ranking(NamedTuple):
    """A ranking on one page."""

    title: str
    facts: str
    figure: Markup


def rankings(preparation: Preparation) -> list[Ranking]:
    """Return the first rankings of a model's neurons, each with a map of its scores."""
    return [
        Ranking(f"{row['method']} at {row['layer']}", _facts(row), _map(preparation.scores[row["ranking_id"]]))
        for row in preparation.rankings
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
