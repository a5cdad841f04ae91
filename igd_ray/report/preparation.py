"""What came before the attacks on a run's model: searches and rankings, with their figures."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from igd_ray.catalog.files import write_whole
from igd_ray.report.figures.images import picture, score_map
from igd_ray.report.figures.search import search_curve
from igd_ray.report.figures.svg import standalone
from igd_ray.report.results import MOST_CLASSES, MOST_NEURONS, Preparation, Rows
from igd_ray.report.tables import Column, Row, Table

# An image, float32 [C, H, W] in [0, 1].
Pixels = NDArray[np.float32]


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


class Pictures(NamedTuple):
    """An image that was attacked: addresses of pictures, and what is said of it.

    Attributes:
        clean, adversarial: the image as it is, if it is here, and the stored point.
        difference: the second minus the first on grey, amplified; None without the first.
        caption: label and predictions.
        detail: attack, defense, image, and how much the difference is amplified.
        broken: whether the point broke the defense.
    """

    clean: str | None
    adversarial: str
    difference: str | None
    caption: str
    detail: str
    broken: bool


def pictures(preparation: Preparation, clean: Mapping[str, Pixels]) -> list[Pictures]:
    """Return some adversarial points as pictures with captions, beside the images in `clean` that they moved."""
    return [_pictures(preparation, row, clean.get(row["image_id"])) for row in preparation.points]


def _pictures(preparation: Preparation, row: Row, image: Pixels | None) -> Pictures:
    def named(label: int) -> str:
        return preparation.class_names.get(label, str(label))

    point = np.asarray(row["pixels"], dtype=np.float32).reshape(tuple(row["shape"]))
    broken = row["status"] == "broken"
    before, after = named(row["clean_prediction"]), named(row["adversarial_prediction"])
    caption = f"{named(row['label'])}: {before} → {after}" if broken else f"{named(row['label'])}: stays {after}"
    detail = f"{row['attack']} on {row['defense']}, image {row['image_id']}"
    if image is None or image.shape != point.shape:
        return Pictures(None, picture(point), None, caption, detail, broken)
    difference = point - image
    largest = float(np.abs(difference).max())
    # Grey where nothing moved; what moved the most is black or white.
    shown = 0.5 + (difference / (2 * largest) if largest else difference)
    amplified = f", difference × {0.5 / largest:.2g}" if largest else ", not moved"
    return Pictures(picture(image), picture(point), picture(shown), caption, detail + amplified, broken)


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
