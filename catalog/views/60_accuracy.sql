-- What is known of each planned image under each attack: NULL in `robust` where nothing was measured. The outcomes of a
-- whole cell say it as they are. With the numbers of `reported_parts`.
CREATE OR REPLACE VIEW numbered_verdicts AS
SELECT
    parts.cell, parts.target, parts.nine, parts.direct, parts.audit,
    parts.run_id, parts.defense, parts.attack, outcomes.image_id,
    status = 'robust' AS robust,
    status = 'error' AS error,
    status = 'skipped' AS skipped,
    clean_prediction = label AS clean_correct,
    forwards, backwards, queries, seconds
FROM stored_outcomes AS outcomes
JOIN reported_parts AS parts ON parts.part_key = outcomes.unit_key
WHERE parts.whole
-- Where cells are not whole:
UNION ALL
SELECT
    planned.cell, planned.target, planned.nine, planned.direct, planned.audit,
    planned.run_id, planned.defense, planned.attack, planned.image_id,
    bool_and(outcomes.status = 'robust') AS robust,
    coalesce(bool_or(outcomes.status = 'error'), false) AS error,
    coalesce(bool_or(outcomes.status = 'skipped'), false) AS skipped,
    bool_and(outcomes.clean_prediction = outcomes.label) AS clean_correct,
    sum(outcomes.forwards)::BIGINT AS forwards,
    sum(outcomes.backwards)::BIGINT AS backwards,
    sum(outcomes.queries)::BIGINT AS queries,
    sum(outcomes.seconds) AS seconds
FROM (
    SELECT DISTINCT parts.* EXCLUDE (unit_key), planned.image_id
    FROM planned
    JOIN (
        SELECT DISTINCT cell, target, nine, direct, audit, run_id, unit_key, defense, attack
        FROM reported_parts
        WHERE NOT whole
    ) AS parts USING (run_id, unit_key, defense, attack)
) AS planned
LEFT JOIN other_outcomes AS outcomes USING (run_id, defense, attack, image_id)
GROUP BY ALL;

CREATE OR REPLACE VIEW verdicts AS
SELECT * EXCLUDE (cell, target, nine, direct, audit) FROM numbered_verdicts;

-- One row for each defense and attack. A robust accuracy over an image that was not measured under this very
-- attack (missing, skipped, error) is NULL, not a number.
CREATE OR REPLACE VIEW accuracy AS
WITH counted AS (
    SELECT
        cell,
        count(*) AS n,
        count(*) FILTER (robust IS NOT NULL AND NOT error AND NOT skipped) AS finished,
        count(*) FILTER (skipped AND NOT error) AS skipped,
        count(*) FILTER (error) AS errors,
        CASE WHEN count(clean_correct) = count(*) THEN avg(clean_correct::INT) END AS clean_accuracy,
        CASE WHEN count(*) FILTER (robust IS NULL OR error OR skipped) = 0 THEN avg(robust::INT) END
            AS robust_accuracy,
        sum(forwards)::BIGINT AS forwards,
        sum(backwards)::BIGINT AS backwards,
        sum(queries)::BIGINT AS queries,
        sum(seconds) AS seconds
    FROM numbered_verdicts
    GROUP BY cell
)
SELECT
    run_id, runs.model, runs.dataset, defense, attack, counted.n, finished, skipped, errors,
    clean_accuracy,
    wilson_low(clean_accuracy, counted.n) AS clean_low,
    wilson_high(clean_accuracy, counted.n) AS clean_high,
    robust_accuracy,
    wilson_low(robust_accuracy, counted.n) AS low,
    wilson_high(robust_accuracy, counted.n) AS high,
    forwards, backwards, queries, seconds
FROM counted
JOIN cells USING (cell)
LEFT JOIN stored_runs AS runs USING (run_id);
