"""Values with intervals, group by group: a panel for each group, a bar for each of its members."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from igd_ray.report.figures.svg import BLUE, GRAY, INK, SMALL, STYLE, short, svg

# Panels beside each other.
_COLUMNS = 3


class Bar(NamedTuple):
    """One bar.

    Attributes:
        group, name: the panel it stands in, and what it is called there.
        value: its length; None where it is not known.
        low, high: its interval, where it has one.
    """

    group: str
    name: str
    value: float | None
    low: float | None
    high: float | None


def bars(found: Sequence[Bar], unit: str, label: str, *, logarithmic: bool = False) -> Markup:
    """Draw `found`, in its order.

    Args:
        found: the bars.
        unit: what their length measures.
        label: what the figure shows, for who cannot see it.
        logarithmic: whether the axis is.
    """
    groups = list(dict.fromkeys(bar.group for bar in found))
    names = list(dict.fromkeys(bar.name for bar in found))
    columns = min(_COLUMNS, len(groups)) if len(groups) != 4 else 2
    lines = -(-len(groups) // columns)
    with mpl.rc_context({**STYLE, "svg.hashsalt": label}):
        size = (1.9 + 2.5 * columns, lines * (0.55 + 0.24 * len(names)) + 0.4)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for axes, group in zip(grid.flat, groups, strict=False):
            axes.set_title(short(group), fontsize=SMALL, fontweight="bold", loc="left")
            axes.grid(axis="x", color=GRAY, alpha=0.25, linewidth=0.8)
            axes.axvline(1 if logarithmic else 0, color=GRAY, linewidth=1)
            axes.tick_params(length=0, labelbottom=True)
            for bar in found:
                if bar.group != group:
                    continue
                place = names.index(bar.name)
                if bar.value is None:
                    axes.annotate(
                        "not known", (0, place), (3, 0), textcoords="offset points", va="center", fontsize=SMALL
                    )
                    continue
                start = 1 if logarithmic else 0
                axes.barh(place, bar.value - start, 0.62, left=start, color=BLUE)
                if bar.low is not None and bar.high is not None:
                    axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=1.4)
        for axes in grid.flat[len(groups) :]:
            axes.set_axis_off()
        first = grid[0, 0]
        first.set_yticks(range(len(names)), [short(name) for name in names])
        first.set_ylim(len(names) - 0.5, -0.5)
        if logarithmic:
            first.set_xscale("log")
            first.xaxis.set_major_formatter("{x:g}")
            first.xaxis.set_minor_formatter("")
        figure.supxlabel(unit, fontsize=10)
        return svg(figure, label)
