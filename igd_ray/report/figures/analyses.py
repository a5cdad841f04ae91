"""The figure of each analysis, from the rows of the query that prints it."""

from collections.abc import Callable, Mapping, Sequence

from markupsafe import Markup

from igd_ray.report.figures.bars import Bar, bars
from igd_ray.report.figures.curves import curves
from igd_ray.report.figures.heat_map import HeatMap, heat_maps
from igd_ray.report.tables import Row


def analysis_figure(analysis: str, rows: Sequence[Row]) -> Markup:
    """Draw the rows that `igd analyze ANALYSIS` prints of one run."""
    return _FIGURES[analysis](rows)


def _sensitivity(rows: Sequence[Row]) -> Markup:
    if any(row["other_setting"] for row in rows):
        return _two_settings(rows)
    return curves(rows)


def _two_settings(rows: Sequence[Row]) -> Markup:
    both = [row for row in rows if row["other_setting"]]
    maps = []
    for defense, attack in dict.fromkeys((row["defense"], row["attack"]) for row in both):
        own = [row for row in both if (row["defense"], row["attack"]) == (defense, attack)]
        values = {(row["place"], row["other_place"]): row["robust"] for row in own}
        maps.append(HeatMap(f"{defense}, {attack}", values))
    return heat_maps(maps, both[0]["setting"], both[0]["other_setting"], "robust accuracy in %")


def _loss_surface(rows: Sequence[Row]) -> Markup:
    maps = [
        HeatMap(
            defense,
            {(f"{row['x']:g}", f"{row['y']:g}"): row["loss"] for row in rows if row["defense"] == defense},
        )
        for defense in dict.fromkeys(row["defense"] for row in rows)
    ]
    return heat_maps(maps, "along the sign of the gradient, in eps", "across it, in eps", "mean loss", numbers=False)


def _activations(rows: Sequence[Row]) -> Markup:
    found = [
        Bar(
            f"{row['attack']}, {'successful' if row['broken'] else 'unsuccessful'}",
            row["neurons"],
            row["change"],
            row["low"],
            row["high"],
        )
        for row in rows
    ]
    return bars(found, "change of mean activation in %", "Change of activations under attacks, by set of neurons")


def _classwise(rows: Sequence[Row]) -> Markup:
    found = [Bar(row["defense"], f"class {row['label']}", row["robust"], row["low"], row["high"]) for row in rows]
    return bars(found, "robust accuracy in %", "Robust accuracy of each class")


def _cost(rows: Sequence[Row]) -> Markup:
    found = [
        Bar(row["quantity"], row["defense"], row["forward_passes"], row["least"], row["most"])
        for row in rows
        if row["quantity"] != "forward pass"
    ]
    return bars(found, "forward passes of the base model", "Cost relative to a forward pass", logarithmic=True)


def _overlap(rows: Sequence[Row]) -> Markup:
    measures = {"rank_biased_overlap": "rank-biased overlap", "jaccard_8": "Jaccard, k = 8", "spearman": "Spearman"}
    pairs = list(dict.fromkeys((row["ranking"], row["other_ranking"]) for row in rows))
    found = [
        Bar(title if len(pairs) == 1 else f"{' / '.join(pair)}: {title}", row["class_name"], row[name], None, None)
        for pair in pairs
        for name, title in measures.items()
        for row in rows
        if (row["ranking"], row["other_ranking"]) == pair
    ]
    return bars(found, "agreement", "Agreement of rankings, class by class")


_FIGURES: Mapping[str, Callable[[Sequence[Row]], Markup]] = {
    "sensitivity": _sensitivity,
    "loss-surface": _loss_surface,
    "activations": _activations,
    "classwise": _classwise,
    "cost": _cost,
    "overlap": _overlap,
}
