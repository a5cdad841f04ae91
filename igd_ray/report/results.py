"""A run as plain data, read once: what tables, figures, sentences and the page are made of."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from igd_ray.catalog.query import Reader
from igd_ray.errors import InputError, did_you_mean
from igd_ray.protocol import AUDIT_PREFIX, attack_order
from igd_ray.report.tables import Row
from igd_ray.statistics import Comparison, holm

Rows = Sequence[Row]

# The undefended model first.
_ORDER = "ORDER BY defense <> 'none', defense"


@dataclass(frozen=True)
class Results:
    """What a run found. Accuracies are fractions in [0, 1]; None is what was not measured.

    Attributes:
        run: the run's row.
        worst_cases: one row for each defense, the undefended model first. In a run with an audit the worst case is that
            over all other attacks, and the `audited_…` columns are over all; without one, `audit_attacks` is None.
        accuracies: one row for each defense and attack, with how many images the attack had to attack and broke.
        compared: each finished defense against the finished undefended model, on the images of both, over all attacks.
        compared_before_audit: the same over the attacks that belong to no audit.
        broken_sets: of each defense, each set of attacks that some images did not withstand, with the number of these
            images and whether every attack on them has finished. A misclassified image withstands none.
        audit_attacks: what each attack of an audit found on each defense, in the order of the attacks.
        noise: how often noise alone makes each random defense wrong.
        waiting: of each defense, the attacks with an error and those that have not finished.
        settings: of each defense.
        findings: of the checks, each once with how often, the gravest first.
        progress: how many units the run has, and how far they are; None before any is planned.
        given_up: the units that failed or were quarantined.
    """

    run: Row
    worst_cases: Rows
    accuracies: Rows
    compared: dict[str, Comparison]
    compared_before_audit: dict[str, Comparison]
    broken_sets: Rows
    audit_attacks: Rows
    noise: Rows
    waiting: Rows
    settings: Rows
    findings: Rows
    progress: Row | None
    given_up: Rows

    @property
    def run_id(self) -> str:
        """The run's id."""
        return str(self.run["run_id"])

    @cached_property
    def goes_until_decided(self) -> bool:
        """Whether the run could end before its last image."""
        try:
            config = json.loads(self.run["config"] or "{}")
        except ValueError:
            return False
        return isinstance(config, dict) and config.get("until") is not None

    @cached_property
    def is_audited(self) -> bool:
        """Whether the run has an audit."""
        return any(row["audit_attacks"] is not None for row in self.worst_cases)

    @cached_property
    def cells(self) -> Rows:
        """The accuracies in the order of the attacks, without an audit's, which attack only some of the images."""
        cells = [row for row in self.accuracies if not row["attack"].startswith(AUDIT_PREFIX)]
        return sorted(cells, key=lambda cell: attack_order(cell["attack"]))

    @cached_property
    def planned(self) -> dict[str, list[str]]:
        """The attacks planned on each defense."""
        planned: dict[str, list[str]] = defaultdict(list)
        for row in sorted(self.accuracies, key=lambda row: (row["defense"], row["attack"])):
            planned[row["defense"]].append(row["attack"])
        return planned


def find_run(reader: Reader, run_id: str | None) -> dict[str, Any]:
    """Return the row of a run; for None of the latest evaluation, or of the latest run if there is none.

    Raises:
        InputError: if there is no such run.
    """
    runs = reader.rows("FROM runs ORDER BY verb = 'evaluate' DESC, created_at DESC, run_id")
    if not runs:
        raise InputError("the catalog has no run to report on; run `igd evaluate` first")
    if run_id is None:
        return runs[0]
    for run in runs:
        if run["run_id"] == run_id:
            return run
    raise InputError(f"the catalog has no run {run_id!r}{did_you_mean(run_id, [run['run_id'] for run in runs])}")


def read_results(reader: Reader, run: Row) -> Results:
    """Return what `run`, one of `find_run`, found; afterwards `reader` knows of no other run's attacks."""
    run_id = run["run_id"]
    reader.keep(run_id)
    audit_attacks = reader.rows(
        f"SELECT attack, defense, attacked, newly_broken FROM audit_attacks WHERE run_id = $1 {_ORDER}", run_id
    )
    return Results(
        run=run,
        worst_cases=reader.rows(_WORST_CASES, run_id),
        accuracies=reader.rows(
            f"""
            SELECT
                accuracy.* REPLACE (
                    if(anytime, sequence_low(clean_accuracy, n), clean_low) AS clean_low,
                    if(anytime, sequence_high(clean_accuracy, n), clean_high) AS clean_high,
                    if(anytime, sequence_low(robust_accuracy, n), low) AS low,
                    if(anytime, sequence_high(robust_accuracy, n), high) AS high
                ),
                attacked, broken
            FROM accuracy
            JOIN attacked USING (run_id, defense, attack)
            LEFT JOIN looks USING (run_id, defense)
            WHERE run_id = $1
            {_ORDER}
            """,
            run_id,
        ),
        compared=_compared(reader, "worst_case_images", run_id),
        compared_before_audit=_compared(reader, "audit_images", run_id),
        broken_sets=reader.rows(_BROKEN_SETS, run_id),
        audit_attacks=sorted(audit_attacks, key=lambda row: attack_order(row["attack"])),
        noise=reader.rows("FROM noise_failures WHERE run_id = $1", run_id),
        waiting=reader.rows(
            """
            SELECT
                defense,
                list(DISTINCT attack) FILTER (error) AS failed,
                list(DISTINCT attack) FILTER (robust IS NULL AND NOT error) AS waiting
            FROM verdicts
            WHERE run_id = $1
            GROUP BY defense
            """,
            run_id,
        ),
        settings=reader.rows(
            f"""
            SELECT DISTINCT defense, k, sigma, tau, draws, layer, ranking_id, judge_draws
            FROM outcomes
            WHERE run_id = $1 AND status <> 'error'
            {_ORDER}
            """,
            run_id,
        ),
        findings=reader.rows(_FINDINGS, run_id),
        progress=next(iter(reader.rows("FROM progress WHERE run_id = $1", run_id)), None),
        given_up=reader.rows(
            """
            SELECT unit_key, kind, defense, attack, failures, error
            FROM unit_states
            WHERE run_id = $1 AND state IN ('failed', 'quarantined')
            ORDER BY ALL
            """,
            run_id,
        ),
    )


_WORST_CASES = f"""
WITH shares AS (
    SELECT
        worst_case.* REPLACE (
            if(audit_attacks IS NULL, worst_case.robust_accuracy, audit.robust_accuracy) AS robust_accuracy,
            if(audit_attacks IS NULL, worst_case.low, audit.low) AS low,
            if(audit_attacks IS NULL, worst_case.high, audit.high) AS high,
            if(audit_attacks IS NULL, worst_case.gain, audit.gain) AS gain
        ),
        audited_accuracy, audited_low, audited_high, audited_gain, broken_by_audit, audit_attacks, anytime
    FROM worst_case
    LEFT JOIN audit USING (run_id, defense)
    LEFT JOIN looks USING (run_id, defense)
    WHERE run_id = $1
)
SELECT
    * REPLACE (
        if(anytime, sequence_low(clean_accuracy, n), clean_low) AS clean_low,
        if(anytime, sequence_high(clean_accuracy, n), clean_high) AS clean_high,
        if(anytime, sequence_low(robust_accuracy, n), low) AS low,
        if(anytime, sequence_high(robust_accuracy, n), high) AS high,
        if(anytime, sequence_low(audited_accuracy, n), audited_low) AS audited_low,
        if(anytime, sequence_high(audited_accuracy, n), audited_high) AS audited_high
    )
FROM shares
{_ORDER}
"""

_BROKEN_SETS = f"""
WITH images AS (
    SELECT
        defense, image_id,
        list(attack ORDER BY attack) FILTER (NOT robust AND NOT skipped) AS attacks,
        bool_and(robust IS NOT NULL AND NOT error) AS known
    FROM verdicts
    WHERE run_id = $1 AND attack <> 'clean'
    GROUP BY defense, image_id
)
SELECT defense, attacks, known, count(*) AS images
FROM images
GROUP BY defense, attacks, known
{_ORDER}, attacks, known
"""

_FINDINGS = """
SELECT *
FROM (
    SELECT severity, "check", defense, attack, message, count(*) AS times
    FROM checks
    WHERE run_id = $1
    GROUP BY ALL
)
ORDER BY list_position(['error', 'warning', 'info'], severity) NULLS FIRST, "check", defense, attack, message
"""


def _compared(reader: Reader, images: str, run_id: str) -> dict[str, Comparison]:
    """Return each finished defense against the finished undefended model, by the worst case in `images`."""
    rows = reader.rows(
        f"""
        SELECT
            defended.defense,
            count(*) AS images,
            count(*) FILTER (defended.robust AND NOT base.robust) AS gained,
            count(*) FILTER (base.robust AND NOT defended.robust) AS lost,
            coalesce(any_value(anytime), false) AS anytime
        FROM {images} AS defended
        JOIN {images} AS base USING (run_id, image_id)
        LEFT JOIN looks ON looks.run_id = defended.run_id AND looks.defense = defended.defense
        WHERE defended.run_id = $1 AND base.defense = 'none' AND defended.defense <> 'none'
        GROUP BY defended.defense
        HAVING count(defended.robust) = count(*) AND count(base.robust) = count(*)
        ORDER BY defended.defense
        """,
        run_id,
    )
    found = {row.pop("defense"): Comparison(**row) for row in rows}
    if len(found) < 2:
        return found
    corrected = holm([comparison.p for comparison in found.values()])
    return {name: found[name]._replace(corrected=p) for name, p in zip(found, corrected, strict=True)}


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
        class_names={row["class_id"]: row["class_name"] for row in reader.rows(_CLASSES, model_id)},
    )


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
