-- What `igd analyze` finds: by class, along a setting, between rankings, and what its own units measured.

-- Each class of the evaluated images under each defense, in the worst case over all planned attacks: an accuracy over an
-- image that was not measured is NULL.
CREATE OR REPLACE VIEW class_accuracy AS
WITH labels AS (
    SELECT DISTINCT run_id, image_id, label FROM outcomes WHERE label IS NOT NULL
), counted AS (
    SELECT
        run_id, defense, label,
        count(*) AS n,
        CASE WHEN count(clean_share) = count(*) THEN avg(clean_share) END AS clean_accuracy,
        CASE WHEN count(robust) = count(*) THEN avg(robust::INT) END AS robust_accuracy
    FROM worst_case_images
    JOIN labels USING (run_id, image_id)
    GROUP BY run_id, defense, label
)
SELECT
    *,
    wilson_low(robust_accuracy, n) AS low,
    wilson_high(robust_accuracy, n) AS high
FROM counted;

-- The number that a text such as 0.5 or 8/255 stands for; NULL for any other.
CREATE OR REPLACE MACRO number_of(text) AS
    coalesce(
        TRY_CAST(text AS DOUBLE),
        TRY_CAST(split_part(text, '/', 1) AS DOUBLE) / nullif(TRY_CAST(split_part(text, '/', 2) AS DOUBLE), 0)
    );

-- Accuracy along one setting, or over two: one row for each defense, attack and point. The run's labels, such as
-- 'loir k=8 tau=0.1', say where each point lies, so that one that is not measured yet is a row with NULL.
CREATE OR REPLACE VIEW sensitivity AS
WITH labelled AS (
    SELECT accuracy.*, string_split(defense, ' ') AS parts
    FROM accuracy
    SEMI JOIN (SELECT run_id FROM stored_runs WHERE config ->> '$.analysis' = 'sensitivity') AS analysed USING (run_id)
)
SELECT
    run_id, model, dataset, parts[1] AS defense, attack,
    split_part(parts[2], '=', 1) AS setting, split_part(parts[2], '=', 2) AS place,
    number_of(split_part(parts[2], '=', 2)) AS number,
    split_part(parts[3], '=', 1) AS other_setting, split_part(parts[3], '=', 2) AS other_place,
    number_of(split_part(parts[3], '=', 2)) AS other_number,
    n, clean_accuracy, clean_low, clean_high, robust_accuracy, low, high
FROM labelled;

-- The rankings that a run compares, and each neuron's place for each class in two of them.
CREATE OR REPLACE VIEW ranking_pairs AS
WITH compared AS (
    SELECT run_id, unit_key AS ranking_id, defense AS label FROM stored_run_units WHERE kind = 'compared-ranking'
)
SELECT
    one.run_id, one.label AS ranking, other.label AS other_ranking,
    ranked.class_id, ranked.class_name, ranked.neuron,
    ranked.rank, others.rank AS other_rank
FROM compared AS one
JOIN compared AS other ON one.run_id = other.run_id AND one.label < other.label
JOIN stored_rankings AS ranked ON ranked.ranking_id = one.ranking_id
JOIN stored_rankings AS others
    ON others.ranking_id = other.ranking_id AND others.class_id = ranked.class_id AND others.neuron = ranked.neuron;

-- How many of the k best neurons of a class two rankings share: in number, and as their Jaccard index.
CREATE OR REPLACE VIEW ranking_overlap AS
WITH entering AS (
    -- A neuron is among the k best of both from the larger of its two places on.
    SELECT run_id, ranking, other_ranking, class_id, greatest(rank, other_rank) + 1 AS k, count(*) AS neurons
    FROM ranking_pairs
    GROUP BY ALL
), shared AS (
    SELECT
        places.run_id, places.ranking, places.other_ranking, places.class_id, places.class_name,
        places.rank + 1 AS k,
        sum(coalesce(entering.neurons, 0)) OVER (
            PARTITION BY places.run_id, places.ranking, places.other_ranking, places.class_id ORDER BY places.rank
        )::BIGINT AS shared
    FROM ranking_pairs AS places
    LEFT JOIN entering
        ON entering.run_id = places.run_id AND entering.ranking = places.ranking
        AND entering.other_ranking = places.other_ranking AND entering.class_id = places.class_id
        AND entering.k = places.rank + 1
)
SELECT *, shared / (2 * k - shared) AS jaccard FROM shared;

-- How much two rankings of the same neurons agree for a class: Spearman's correlation of the places, and rank-biased
-- overlap (Webber et al. 2010, extrapolated) with p = 0.9, for which the ten best have 86 % of the weight.
CREATE OR REPLACE VIEW ranking_agreement AS
SELECT run_id, ranking, other_ranking, class_id, class_name, neurons, spearman, rank_biased_overlap
FROM (
    SELECT run_id, ranking, other_ranking, class_id, class_name, corr(rank, other_rank) AS spearman
    FROM ranking_pairs
    GROUP BY ALL
)
JOIN (
    SELECT
        run_id, ranking, other_ranking, class_id, count(*) AS neurons,
        (1 - 0.9) * sum(0.9 ** (k - 1) * shared / k) + 0.9 ** count(*) * (max(shared) / count(*))
            AS rank_biased_overlap
    FROM ranking_overlap
    GROUP BY ALL
) USING (run_id, ranking, other_ranking, class_id);

-- What the units of analyses measured, for each run that planned them.
CREATE OR REPLACE VIEW measurements AS
SELECT planned.run_id, measured.*
FROM stored_measurements AS measured
JOIN unit_parts AS parts ON parts.part_key = measured.unit_key
JOIN (SELECT DISTINCT run_id, unit_key FROM stored_run_units) AS planned ON planned.unit_key = parts.unit_key;

-- By how much percent an attack changes the mean activation of a set of neurons of an image (the paper's table 7).
CREATE OR REPLACE VIEW activation_changes AS
SELECT
    run_id, unit_key, model, dataset, defense, attack, image_id, label, broken, quantity AS neurons,
    value AS change
FROM measurements
WHERE analysis = 'activations';

-- The loss of an image at a point x * eps along the sign of the gradient and y * eps along a direction orthogonal to it.
CREATE OR REPLACE VIEW loss_surface AS
SELECT run_id, unit_key, model, dataset, defense, image_id, label, x, y, value AS loss
FROM measurements
WHERE analysis = 'loss-surface';

-- The seconds that something took at each repetition, as a multiple of the base model's forward pass over the same
-- images beside it.
CREATE OR REPLACE VIEW relative_cost AS
WITH timed AS (
    SELECT run_id, unit_key, model, dataset, defense, quantity, x AS repetition, value AS seconds
    FROM measurements
    WHERE analysis = 'cost'
)
SELECT
    timed.run_id, timed.unit_key, timed.model, timed.dataset, timed.defense, timed.quantity, timed.repetition,
    timed.seconds, timed.seconds / base.seconds AS forward_passes
FROM timed
JOIN timed AS base
    ON base.run_id = timed.run_id AND base.unit_key = timed.unit_key AND base.repetition = timed.repetition
    AND base.quantity = 'forward pass';

-- The worst case over the nine published attacks, and over the audit's attacks, too: NULL where one of them has no verdict.
CREATE OR REPLACE VIEW nine_worst_case AS
SELECT
    run_id, defense,
    CASE WHEN count(nine_robust) = count(*) AND min(nine) = max(nine) THEN avg(nine_robust::INT) END AS iwwc,
    CASE WHEN count(audited) = count(*) AND min(audits) = max(audits) THEN avg(audited::INT) END AS audited
FROM worst_case_images
GROUP BY run_id, defense;

-- The columns of the paper's main tables, in percent: clean accuracy, robust accuracy under AutoAttack (aa) and in the
-- image-wise worst case over the nine attacks (iwwc) with its 95 % interval, and its gain over no defense in points.
CREATE OR REPLACE VIEW robustness_table AS
SELECT
    worst_case.run_id, worst_case.model, worst_case.dataset, worst_case.defense, worst_case.n,
    round(100 * worst_case.clean_accuracy, 2) AS clean,
    round(100 * auto_attack.robust_accuracy, 2) AS aa,
    round(100 * worst.iwwc, 2) AS iwwc,
    round(100 * wilson_low(worst.iwwc, worst_case.n), 2) AS low,
    round(100 * wilson_high(worst.iwwc, worst_case.n), 2) AS high,
    round(100 * (worst.iwwc - none.iwwc), 2) AS gain
FROM worst_case
JOIN nine_worst_case AS worst USING (run_id, defense)
LEFT JOIN accuracy AS auto_attack
    ON auto_attack.run_id = worst_case.run_id AND auto_attack.defense = worst_case.defense
    AND auto_attack.attack = 'aa' AND auto_attack.n = worst_case.n
LEFT JOIN (FROM nine_worst_case WHERE defense = 'none') AS none ON none.run_id = worst_case.run_id;
