"""Robust accuracy of each defense under each attack, with intervals, the worst case first."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from igd_ray.report.figures.panels import Panel
from igd_ray.report.figures.svg import BLUE, GRAY, INK, ORANGE, SMALL, STYLE, short, svg

# Panels beside each other fit into a page of 1280 pixels.
_PANELS = 4


def robustness(rows: Sequence[str], panels: Sequence[Panel], *, worst: int, baseline: float | None) -> Markup:
    """Draw a panel for each defense, in which each attack has a row.

    Args:
        rows: what the rows are named; the first `worst` are worst cases, drawn as diamonds.
        panels: of each defense, a point for each of `rows`.
        worst: how many of the first rows are worst cases.
        baseline: the undefended model's worst case, a dotted line in every panel.
    """
    lines = math.ceil(len(panels) / _PANELS)
    columns = math.ceil(len(panels) / lines)
    size = (1.7 + 2.35 * columns, lines * (0.75 + 0.235 * len(rows)))
    with mpl.rc_context({**STYLE, "svg.hashsalt": "robustness"}):
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        # The last line of the grid may have places left over.
        for axes, panel in zip(grid.flat, panels, strict=False):
            _draw(axes, panel, worst, baseline)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        first = grid[0, 0]
        first.set_yticks(range(len(rows)), [short(row) for row in rows])
        first.set_ylim(len(rows) - 0.5, -0.5)
        first.set_xlim(-2, 102)
        first.set_xticks([0, 50, 100])
        for axes in grid[:, 0]:
            for label in axes.get_yticklabels()[:worst]:
                label.set_fontweight("bold")
        figure.supxlabel("robust accuracy in %", fontsize=10)
        return svg(figure, "Robust accuracy of each defense under each attack, with intervals")


def _draw(axes: Axes, panel: Panel, worst: int, baseline: float | None) -> None:
    axes.set_title(short(panel.defense), fontsize=11, fontweight="bold", loc="left")
    axes.axhspan(-0.5, worst - 0.5, color=GRAY, alpha=0.15, linewidth=0)
    axes.grid(axis="x", color=GRAY, alpha=0.25, linewidth=0.8)
    axes.tick_params(length=0, labelbottom=True)
    if baseline is not None:
        axes.axvline(100 * baseline, color=GRAY, linestyle=":", linewidth=1.6)
    for place, (value, low, high, note) in enumerate(panel.points):
        if value is None:
            if low is not None and high is not None:
                axes.plot([100 * low, 100 * high], [place, place], color=GRAY, linewidth=1.2, linestyle=(0, (1, 1.5)))
            # Where there is more room.
            left = low is None or high is None or low >= 1 - high
            axes.text(2 if left else 98, place, note, va="center", ha="left" if left else "right", fontsize=SMALL)
            continue
        if low is not None and high is not None:
            axes.plot([100 * low, 100 * high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
        marker, colour, size = ("D", ORANGE, 7) if place < worst else ("o", BLUE, 5.5)
        edge: dict[str, Any] = {"markeredgecolor": INK, "markeredgewidth": 0.8}
        axes.plot([100 * value], [place], marker, color=colour, markersize=size, clip_on=False, **edge)
