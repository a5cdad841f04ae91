"""What came before the attacks on a run's model, as plain data, read once."""

from collections.abc import Sequence
from dataclasses import dataclass

from igd_ray.catalog.query import Reader
from igd_ray.report.results import Rows
from igd_ray.report.tables import Row

# What fits on a page, pictures of broken and of robust images each; the catalog holds the rest.
MOST_CLASSES, MOST_NEURONS, MOST_FIGURES, MOST_PICTURES = 20, 96, 6, 6

# Of each class so many neurons are listed.
TOP = 8


@dataclass(frozen=True)
class Preparation:
    """What came before the attacks on a run's model, and what they left behind.

    Attributes:
        searches: the finished searches on the model.
        trials: those of the first searches, by search, in their order.
        rankings: the first rankings of the model's neurons, each with its numbers of classes and neurons.
        scores: of each of these rankings, a row for each class with the scores of the most important neurons.
        neurons: of each layer, the most important neurons of the first classes, as `read_neurons` gives them.
        points: some adversarial points, those that broke a defense first, as far as the catalog holds them.
        class_names: of the model's classes, by their numbers, as far as a ranking tells them.
    """

    searches: Rows
    trials: dict[str, Rows]
    rankings: Rows
    scores: dict[str, Rows]
    neurons: dict[str, Rows]
    points: Rows
    class_names: dict[int, str]


def read_preparation(reader: Reader, run: Row) -> Preparation:
    """Return what came before the attacks of `run`, one of `find_run`, and the points that they left."""
    model_id = run["model_id"]
    searches = reader.rows("FROM searches WHERE model_id IS NOT DISTINCT FROM $1 ORDER BY search_id", model_id)
    rankings = reader.rows(
        """
        SELECT
            ranking_id, method, layer, dataset, probe_images,
            count(DISTINCT class_id) AS classes, count(DISTINCT neuron) AS neurons
        FROM rankings
        WHERE model_id IS NOT DISTINCT FROM $1
        GROUP BY ALL
        ORDER BY method, layer, ranking_id
        LIMIT $2
        """,
        model_id,
        MOST_FIGURES,
    )
    return Preparation(
        searches=searches,
        trials={each["search_id"]: read_trials(reader, each["search_id"]) for each in searches[:MOST_FIGURES]},
        rankings=rankings,
        scores={
            each["ranking_id"]: reader.rows(_SCORES, each["ranking_id"], MOST_CLASSES, MOST_NEURONS)
            for each in rankings
        },
        neurons={
            layer: read_neurons(reader, [each["ranking_id"] for each in rankings if each["layer"] == layer])
            for layer in dict.fromkeys(each["layer"] for each in rankings)
        },
        points=reader.rows(_POINTS, run["run_id"], MOST_PICTURES),
        class_names=read_class_names(reader, model_id),
    )


def read_class_names(reader: Reader, model_id: str | None) -> dict[int, str]:
    """Return the names of a model's classes, by their numbers, as far as a ranking tells them."""
    return {row["class_id"]: row["class_name"] for row in reader.rows(_CLASSES, model_id)}


def read_neurons(reader: Reader, ranking_ids: Sequence[str], *, class_id: int | None = None, top: int = TOP) -> Rows:
    """Return the `top` most important neurons of each class, or of one, in any of several rankings of a layer.

    One row for each class and neuron: `ranking_ids`, `scores` and `ranks` in these, and the other classes that it is
    among the most important of in any of them (`shared_by`).
    """
    return reader.rows(_NEURONS, list(ranking_ids), top, class_id, MOST_CLASSES)


def read_trials(reader: Reader, search_id: str) -> Rows:
    """Return the trials of a search in the order they were asked for."""
    return reader.rows("FROM trials WHERE search_id = $1 ORDER BY trial", search_id)


def read_search(reader: Reader, search_id: str) -> tuple[Row, Rows]:
    """Return a search, finished or not, with its trials."""
    trials = read_trials(reader, search_id)
    finished = reader.rows("FROM searches WHERE search_id = $1", search_id)
    return (finished[0] if finished else {**trials[0], "k": None, "class_k": None, "clean_accuracy": None}), trials


_SCORES = """
WITH best AS (
    SELECT neuron, avg(rank) AS mean_rank
    FROM rankings
    WHERE ranking_id = $1
    GROUP BY neuron
    ORDER BY mean_rank, neuron
    LIMIT $3
)
SELECT class_id, any_value(coalesce(class_name, class_id::VARCHAR)) AS class_name,
    list(score ORDER BY mean_rank, neuron) AS scores
FROM rankings
JOIN best USING (neuron)
WHERE ranking_id = $1
GROUP BY class_id
ORDER BY class_id
LIMIT $2
"""

_NEURONS = """
WITH ranked AS (
    SELECT ranking_id, class_id, coalesce(class_name, class_id::VARCHAR) AS class_name, neuron, score, rank
    FROM rankings
    WHERE list_contains($1, ranking_id)
), best AS (
    SELECT DISTINCT class_id, class_name, neuron FROM ranked WHERE rank < $2
), shared AS (
    SELECT best.class_id, best.neuron, list(others.class_name ORDER BY others.class_id) AS shared_by
    FROM best
    JOIN best AS others ON others.neuron = best.neuron AND others.class_id <> best.class_id
    GROUP BY ALL
)
SELECT
    class_id, any_value(class_name) AS class_name, neuron,
    list(ranking_id ORDER BY list_position($1, ranking_id)) AS ranking_ids,
    list(score ORDER BY list_position($1, ranking_id)) AS scores,
    list(rank ORDER BY list_position($1, ranking_id)) AS ranks,
    any_value(shared_by) AS shared_by
FROM ranked
SEMI JOIN best USING (class_id, neuron)
LEFT JOIN shared USING (class_id, neuron)
WHERE CASE WHEN $3::INT IS NULL THEN class_id < $4 ELSE class_id = $3 END
GROUP BY class_id, neuron
ORDER BY class_id, list_min(ranks), ranks, neuron
"""

# Pixels are read of the chosen points only.
_POINTS = """
WITH images AS (
    SELECT outcomes.unit_key, outcomes.image_id, outcomes.defense, outcomes.attack, outcomes.label, outcomes.status,
        outcomes.ranking_id,
        outcomes.clean_prediction, outcomes.adversarial_prediction, points.shape
    FROM outcomes
    JOIN (
        SELECT unit_key, image_id, shape
        FROM adversarials
        WHERE point = 'returned' AND len(shape) = 3 AND shape[1] IN (1, 3) AND list_min(shape) > 0
    ) AS points USING (unit_key, image_id)
    WHERE outcomes.run_id = $1 AND outcomes.status IN ('broken', 'robust')
    -- Each image once, of a defense rather than of the undefended model, broken if any of its points broke one.
    QUALIFY row_number() OVER (
        PARTITION BY outcomes.image_id
        ORDER BY outcomes.status, outcomes.defense = 'none', outcomes.defense, outcomes.attack
    ) = 1
), chosen AS (
    FROM images QUALIFY row_number() OVER (PARTITION BY status ORDER BY image_id) <= $2
)
SELECT chosen.*, pixels
FROM chosen
JOIN adversarials USING (unit_key, image_id)
WHERE point = 'returned' AND list_product(chosen.shape) = len(pixels)
ORDER BY status, image_id
"""

# By the number of a class, its name.
_CLASSES = """
SELECT DISTINCT class_id, class_name FROM rankings
WHERE model_id IS NOT DISTINCT FROM $1 AND class_name IS NOT NULL
"""
