"""Clean and robust accuracy along a setting, with intervals."""

from collections.abc import Sequence

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from igd_ray.report.figures.svg import BLUE, GRAY, ORANGE, SMALL, STYLE, short, svg
from igd_ray.report.tables import Row

_COLUMNS = 3


def curves(rows: Sequence[Row]) -> Markup:
    """Draw a panel for each defense and attack: accuracies in percent over the places of the setting, in their order.

    A defense that does not have the setting is a dotted line in every panel of the attack. A place that is not
    measured is a gap.
    """
    varied = [row for row in rows if row["setting"]]
    fixed = [row for row in rows if not row["setting"]]
    panels = list(dict.fromkeys((row["defense"], row["attack"]) for row in varied))
    columns = max(1, min(_COLUMNS, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    with mpl.rc_context({**STYLE, "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(0.6 + 3.1 * columns, 0.4 + 2.3 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
        for axes, (defense, attack) in zip(grid.flat, panels, strict=False):
            own = [row for row in varied if (row["defense"], row["attack"]) == (defense, attack)]
            places = range(len(own))
            for name, colour, marker in (("clean", BLUE, "s"), ("robust", ORANGE, "o")):
                values = [float("nan") if row[name] is None else row[name] for row in own]
                axes.plot(places, values, f"{marker}-", color=colour, markersize=4.5, linewidth=1.3, label=name)
            known = [place for place in places if own[place]["low"] is not None]
            low, high = ([own[place][end] for place in known] for end in ("low", "high"))
            axes.vlines(known, low, high, color=ORANGE, linewidth=1)
            for row in fixed:
                if row["attack"] == attack:
                    for name in ("clean", "robust"):
                        if row[name] is not None:
                            axes.axhline(row[name], color=GRAY, linestyle=":", linewidth=1.3)
            axes.set_title(short(f"{defense}, {attack}"), fontsize=SMALL, fontweight="bold", loc="left")
            axes.set_xticks(places, [short(row["place"]) for row in own], rotation=30 if len(own) > 5 else 0)
            axes.set_xlabel(own[0]["setting"])
            axes.set_ylim(-2, 102)
            axes.grid(axis="y", color=GRAY, alpha=0.25, linewidth=0.8)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        if panels:
            grid[0, 0].legend(fontsize=SMALL)
        grid[0, 0].set_ylabel("accuracy in %")
        return svg(figure, "Clean and robust accuracy along a setting")
