"""Figures as text that stands inside the report: SVG that takes its page's colours, and PNG data."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Patch
from numpy.typing import NDArray

Row = Mapping[str, Any]

BLUE, ORANGE, GRAY = "#4f83cc", "#e07b39", "#8a919e"

# Stands for the colour of the page's text, which is known only to the browser (light or dark).
_INK = "#010203"

_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name with dollar signs is a name
    "svg.fonttype": "none",  # text stays text: it takes the page's font and can be searched
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": GRAY,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def accuracy_bars(rows: Sequence[Row]) -> Markup:
    """Draw clean and worst-case accuracy for each defense, and that after the audit if there was one.

    Args:
        rows: of `evaluation.worst_cases`; a worst case that is not known has no bar but says so. Its interval is drawn.
    """
    audited = any(row["audit_attacks"] is not None for row in rows)
    bars = [("robust_accuracy", "low", "high", BLUE)]
    if audited:
        bars.append(("audited_accuracy", "audited_low", "audited_high", ORANGE))
    height = 0.72 / (1 + len(bars))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "accuracy"}):
        figure = Figure(figsize=(7.2, 0.9 + 0.31 * (1 + len(bars)) * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for position, row in enumerate(rows):
            top = position - height * len(bars) / 2
            if row["clean_accuracy"] is not None:
                axes.barh(top, 100 * row["clean_accuracy"], 0.9 * height, color=GRAY, alpha=0.55)
            for place, (name, low, high, colour) in enumerate(bars, start=1):
                middle, robust = top + place * height, row[name]
                if robust is None:
                    axes.text(1, middle, "not finished", va="center", fontsize=9)
                    continue
                span = [[100 * (robust - row[low])], [100 * (row[high] - robust)]]
                axes.barh(middle, 100 * robust, 0.9 * height, color=colour)
                axes.errorbar(100 * robust, middle, xerr=span, color=_INK, capsize=3, linewidth=1.2)
        axes.set_yticks(range(len(rows)), [row["defense"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy in %")
        meanings = [Patch(color=GRAY, alpha=0.55, label="clean"), Patch(color=BLUE, label="worst case, 95 % interval")]
        if audited:
            meanings.append(Patch(color=ORANGE, label="after the audit"))
        figure.legend(handles=meanings, loc="outside upper left", ncols=len(meanings))
        return _svg(figure, "Clean and worst-case accuracy of each defense")


def search_curve(search: Row, trials: Sequence[Row]) -> Markup:
    """Draw clean accuracy over k for the `trials` of a `search`, in the order they were asked for.

    The (σ, τ, draws) of the chosen setting, or the first, has its path numbered; the others stand behind it in grey.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": f"search {search['search_id']}"}):
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
        return _svg(figure, "Clean accuracy over k with the chosen k")


def standalone(figure: Markup) -> str:
    """Return a figure as the text of an SVG file: black on white, as no page gives it colours."""
    opening = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    return str(figure).replace("<svg ", opening + 'style="color: black; background: white" ', 1)


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
        axes.annotate(str(place), point, (0, 6), textcoords="offset points", fontsize=7, ha="center", color=BLUE)


def _draw_tolerance(axes: Axes, base: float, tolerance: float | None) -> None:
    axes.axhline(base, color=GRAY, linewidth=1)
    if tolerance is not None:
        axes.axhspan(base - 100 * tolerance, base, color=GRAY, alpha=0.15, linewidth=0)


def score_map(scores: NDArray[np.float64], class_names: Sequence[str]) -> Markup:
    """Draw scores [classes × neurons], each class on its own scale, as a heat map."""
    low = scores.min(axis=1, keepdims=True)
    span = scores.max(axis=1, keepdims=True) - low
    scaled = np.divide(scores - low, span, out=np.zeros_like(scores), where=span > 0)
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "scores"}):
        figure = Figure(figsize=(7.2, 0.8 + 0.2 * len(class_names)), layout="constrained")
        axes = figure.add_subplot()
        # From nothing to blue: what is unimportant takes the page's background.
        colours = LinearSegmentedColormap.from_list("importance", [(*to_rgb(BLUE), a) for a in (0.04, 1.0)])
        axes.imshow(scaled, aspect="auto", cmap=colours, interpolation="nearest")
        axes.set_yticks(range(len(class_names)), class_names)
        axes.set_xlabel("neurons, the most important over all classes first")
        axes.spines[:].set_visible(False)
        return _svg(figure, "Importance of the neurons for each class")


def picture(shape: Sequence[int], pixels: Sequence[float]) -> str:
    """Return an image [C, H, W] in [0, 1], of one or three channels, as the address of PNG data."""
    array = np.asarray(pixels, dtype=np.float32).reshape(tuple(shape)).transpose(1, 2, 0)
    shades = np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    imsave(buffer, np.broadcast_to(shades, (*shades.shape[:2], 3)), format="png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _svg(figure: Figure, label: str) -> Markup:
    """Return `figure` as an ``<svg>`` element without prolog, metadata and addresses of name spaces."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", text)
    text = text.replace(_INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    # matplotlib escapes every label that it writes; `label` is a constant of this file.
    return Markup(text)
