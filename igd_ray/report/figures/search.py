"""Clean accuracy over k, as a search tried it."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igd_ray.report.figures.svg import BLUE, GRAY, ORANGE, SMALL, STYLE, svg
from igd_ray.report.tables import Row


def search_curve(search: Row, trials: Sequence[Row]) -> Markup:
    """Draw clean accuracy over k for the `trials` of a `search`, in the order they were asked for.

    The (σ, τ, draws) of the chosen setting, or the first, has its path numbered; the others stand behind it in grey.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"search {search['search_id']}"}):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        axes = figure.add_subplot()
        settings: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
        for trial in trials:
            if _size(trial) is not None and trial["clean_accuracy"] is not None:
                point = _size(trial), 100 * trial["clean_accuracy"]
                settings.setdefault(_group(trial), []).append(point)
        main = _group(search) if _group(search) in settings else next(iter(settings), None)
        for setting, path in settings.items():
            ks, accuracies = zip(*sorted(path), strict=True)
            colour, alpha, layer = (BLUE, 0.9, 2) if setting == main else (GRAY, 0.4, 1)
            axes.plot(ks, accuracies, "o-", color=colour, alpha=alpha, zorder=layer, markersize=4, linewidth=1.2)
        if main is not None:
            _draw_path(axes, settings[main])
        if search["base_clean_accuracy"] is not None:
            _draw_tolerance(axes, 100 * search["base_clean_accuracy"], search["tolerance"])
        if _size(search) is not None and search["clean_accuracy"] is not None:
            k, chosen = _size(search), 100 * search["clean_accuracy"]
            axes.plot([k], [chosen], "o", color=ORANGE, markersize=10, fillstyle="none", markeredgewidth=2)
            axes.annotate(f"chosen: k = {k:.4g}", (k, chosen), (8, -14), textcoords="offset points", color=ORANGE)
        axes.set_xlabel("k, neurons kept for each class")
        axes.set_ylabel("clean accuracy in %")
        return svg(figure, "Clean accuracy over k with the chosen k")


def _size(row: Row) -> Any:
    """Return k, or its mean where it is one for each class."""
    class_k = row.get("class_k")
    return sum(class_k) / len(class_k) if class_k else row["k"]


def _group(row: Row) -> tuple[Any, ...]:
    return row["sigma"], row["tau"], row["draws"]


def _draw_path(axes: Axes, path: Sequence[tuple[float, float]]) -> None:
    """Number the points of `path` in the order they were tried, and join them by a thin line."""
    axes.plot(*zip(*path, strict=True), ":", color=BLUE, alpha=0.6, linewidth=0.9)
    for place, point in enumerate(path, start=1):
        axes.annotate(str(place), point, (0, 6), textcoords="offset points", fontsize=SMALL, ha="center", color=BLUE)


def _draw_tolerance(axes: Axes, base: float, tolerance: float | None) -> None:
    axes.axhline(base, color=GRAY, linewidth=1)
    if tolerance is not None:
        axes.axhspan(base - 100 * tolerance, base, color=GRAY, alpha=0.15, linewidth=0)
