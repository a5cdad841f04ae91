"""The neurons that matter to a class, by each ranking of a layer, and the classes that share them."""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from igd_ray.report.preparation.stored import Preparation
from igd_ray.report.results import Rows
from igd_ray.report.tables import Column, Row, Table


class ClassNeurons(NamedTuple):
    """The neurons of one class.

    Attributes:
        layer: whose neurons they are.
        class_name: which class.
        table: a row for each neuron: score and rank in each ranking, and the other classes that it matters to.
    """

    layer: str
    class_name: str
    table: Table


def labels_of(rankings: Rows) -> dict[str, str]:
    """Return the label of each ranking of a layer, by its id: the method, and the id where that is not enough."""
    methods = [row["method"] for row in rankings]
    labels = {}
    for row in rankings:
        ranking_id, method = row["ranking_id"], row["method"]
        labels[ranking_id] = method if methods.count(method) == 1 else f"{method} {ranking_id[:6]}"
    return labels


def neuron_table(labels: Mapping[str, str], rows: Rows) -> Table:
    """Return the neurons of one class.

    Args:
        labels: of rankings, by their ids, in the order of the columns.
        rows: of `stored.read_neurons`.
    """
    places = {ranking_id: place for place, ranking_id in enumerate(labels)}
    shown = []
    for row in rows:
        cells: dict[str, object] = {}
        for ranking_id, score, rank in zip(row["ranking_ids"], row["scores"], row["ranks"], strict=True):
            cells |= {f"score {places[ranking_id]}": score, f"rank {places[ranking_id]}": rank}
        missing = {f"{what} {place}": None for what in ("score", "rank") for place in places.values()}
        shown.append({**missing, **cells, "neuron": str(row["neuron"]), "shared_by": ", ".join(row["shared_by"] or [])})
    columns = [Column("neuron", "Neuron")]
    for place, label in enumerate(labels.values()):
        columns += [
            Column(f"rank {place}", f"{label} rank", "count"),
            Column(f"score {place}", f"{label} score", "number"),
        ]
    return Table([*columns, Column("shared_by", "Among the best of", "prose")], shown)


def neurons(preparation: Preparation) -> list[ClassNeurons]:
    """Return the most important neurons of the first classes, by layer."""
    shown = []
    for layer, rows in preparation.neurons.items():
        labels = labels_of([row for row in preparation.rankings if row["layer"] == layer])
        classes: dict[int, list[Row]] = defaultdict(list)
        for row in rows:
            classes[row["class_id"]].append(row)
        for found in classes.values():
            shown.append(ClassNeurons(layer, found[0]["class_name"], neuron_table(labels, found)))
    return shown
