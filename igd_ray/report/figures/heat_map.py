"""Values over two settings, or over a plane: a map for each defense."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from igd_ray.report.figures.svg import SMALL, STYLE, short, svg

# From light to dark in one direction, so that it is read in black and white, too.
_COLOURS = "cividis_r"

# Cells whose colour is dark take light numbers.
_DARK = 0.55


class HeatMap(NamedTuple):
    """A map: its title, and a value for each pair of places, None where it is not known."""

    title: str
    values: Mapping[tuple[str, str], float | None]


def heat_maps(maps: Sequence[HeatMap], across: str, up: str, unit: str, *, numbers: bool = True) -> Markup:
    """Draw `maps` beside each other in one scale of colours.

    Args:
        maps: their places, in order, are those of the first.
        across, up: what the places of both directions are.
        unit: what the values are.
        numbers: write each value into its cell.
    """
    columns = list(dict.fromkeys(place for place, _ in maps[0].values))
    lines = list(dict.fromkeys(place for _, place in maps[0].values))
    known = [value for each in maps for value in each.values.values() if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    colours = mpl.colormaps[_COLOURS]
    cell = 0.6 if numbers else 0.26
    with mpl.rc_context({**STYLE, "svg.hashsalt": "heat map"}):
        size = (2.2 + len(maps) * (cell * len(columns) + 0.5), 1.3 + (0.36 if numbers else cell) * len(lines))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(maps), sharey=True, squeeze=False)
        for axes, each in zip(grid.flat, maps, strict=True):
            for (column, line), value in each.values.items():
                place = columns.index(column) - 0.5, lines.index(line) - 0.5
                share = 0.0 if value is None or high == low else (value - low) / (high - low)
                face = "none" if value is None else colours(share)
                axes.add_patch(Rectangle(place, 1, 1, facecolor=face, edgecolor="none"))
                if numbers:
                    text = "–" if value is None else f"{value:.0f}"
                    colour = "white" if value is not None and share > _DARK else "black"
                    axes.text(
                        place[0] + 0.5, place[1] + 0.5, text, ha="center", va="center", color=colour, fontsize=SMALL
                    )
            axes.set_title(short(each.title), fontsize=SMALL, fontweight="bold", loc="left")
            step = 1 if numbers else max(1, len(columns) // 4)
            axes.set_xticks(range(0, len(columns), step), [short(name) for name in columns[::step]])
            axes.set_yticks(range(0, len(lines), step), [short(name) for name in lines[::step]])
            axes.set_xlim(-0.5, len(columns) - 0.5)
            axes.set_ylim(-0.5, len(lines) - 0.5)
            axes.tick_params(length=0)
        figure.supxlabel(across, fontsize=10)
        figure.supylabel(up, fontsize=10)
        bar = mpl.cm.ScalarMappable(mpl.colors.Normalize(low, high), colours)
        figure.colorbar(bar, ax=list(grid.flat), label=unit)
        return svg(figure, f"{unit} over {across} and {up}")
