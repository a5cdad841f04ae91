"""Which attacks broke the same images: an UpSet plot (Lex et al., IEEE TVCG 2014)."""

from collections.abc import Sequence

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from igd_ray.report.figures.svg import BLUE, GRAY, INK, SMALL, STYLE, short, svg
from igd_ray.report.tables import Row

# The largest sets of attacks that fit beside each other.
MOST_SETS = 16


def overlap(defense: str, attacks: Sequence[Row], sets: Sequence[Row]) -> Markup:
    """Draw how many images each set of attacks broke: a column for each set, above the attacks that belong to it.

    Args:
        defense: whose images; it distinguishes the figure on its page.
        attacks: `attack`, and how many images it broke (`broken`, None where it has not finished), in order.
        sets: `broken_by`, the names of the attacks joined by " + ", with `images` and, of these, `unknown`; the largest
            first. Of the unknown, which are drawn hatched, some other attack has no verdict of its own.
    """
    shown = sets[:MOST_SETS]
    places = {row["attack"]: place for place, row in enumerate(attacks)}
    labels = [f"{short(row['attack'])}  {'–' if row['broken'] is None else row['broken']}" for row in attacks]
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"overlap {defense}", "hatch.linewidth": 0.8}):
        figure = Figure(figsize=(2.2 + 0.42 * max(len(shown), 5), 1.5 + 0.23 * len(attacks)), layout="constrained")
        bars, matrix = figure.subplots(2, 1, sharex=True, height_ratios=[1.2, 0.23 * len(attacks)])
        for column, row in enumerate(shown):
            known = row["images"] - row["unknown"]
            bars.bar(column, known, 0.62, color=BLUE)
            if row["unknown"]:
                bars.bar(column, row["unknown"], 0.62, bottom=known, color="none", edgecolor=BLUE, hatch="////")
            bars.annotate(
                str(row["images"]),
                (column, row["images"]),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=SMALL,
            )
            members = sorted(places[attack] for attack in row["broken_by"].split(" + ") if attack in places)
            matrix.plot([column] * len(places), range(len(places)), "o", color=GRAY, alpha=0.3, markersize=4)
            matrix.plot([column] * len(members), members, "o-", color=INK, markersize=6.5, linewidth=1.6)
        bars.set_ylabel("images")
        bars.margins(y=0.18)
        bars.spines["bottom"].set_visible(False)
        bars.tick_params(axis="x", length=0, labelbottom=False)
        bars.yaxis.get_major_locator().set_params(integer=True, nbins=4)
        matrix.set_yticks(range(len(places)), labels)
        matrix.set_ylim(len(places) - 0.5, -0.5)
        matrix.set_xlim(-0.6, max(len(shown), 5) - 0.4)
        matrix.tick_params(length=0, labelbottom=False)
        matrix.spines[:].set_visible(False)
        return svg(figure, f"Sets of attacks that broke the same images under {defense}")
