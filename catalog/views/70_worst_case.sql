-- What all planned attacks together say of each image: robust only if every one of them left it robust.
-- Broken, misclassified and skipped (broken before by another attack) are not robust. `nine_robust` goes by the nine
-- published attacks only, and by their number, `nine`, that have a verdict; the undefended model's transfers are the
-- attacks on it. `audited` goes by the audit's attacks, too, of which `audits` have a verdict.
-- Once for several.
CREATE OR REPLACE VIEW worst_case_images AS
WITH counted AS (
    SELECT
        target, image_id,
        count(*) AS attacks,
        CASE WHEN count(robust) = count(*) AND NOT bool_or(error) THEN bool_and(robust) END AS robust,
        -- The attack 'clean' measures this; without it, every attack's own look at the clean image counts alike.
        coalesce(avg(clean_correct::INT) FILTER (attack = 'clean'), avg(clean_correct::INT)) AS clean_share,
        count(robust) FILTER (nine AND NOT error) AS nine,
        count(*) FILTER (nine) AS planned_nine,
        count(*) FILTER (direct) AS planned_direct,
        CASE WHEN bool_and(robust IS NOT NULL AND NOT error) FILTER (nine) THEN bool_and(robust) FILTER (nine) END
            AS nine_robust,
        count(robust) FILTER (audit AND NOT error) AS audits,
        CASE WHEN bool_and(robust IS NOT NULL AND NOT error) FILTER (nine OR audit) THEN
            bool_and(robust) FILTER (nine OR audit)
        END AS audited
    FROM numbered_verdicts
    GROUP BY target, image_id
)
SELECT
    run_id, defense, image_id, attacks, robust, clean_share, nine,
    CASE WHEN
        planned_nine = number_of_nine() OR (defense = 'none' AND planned_direct = number_of_direct())
    THEN
        nine_robust
    END AS nine_robust,
    audits, audited
FROM counted
JOIN (SELECT DISTINCT target, run_id, defense FROM reported_parts) AS targets USING (target);

-- One row for each defense; NULL until every planned attack has finished on every image, and after any error.
CREATE OR REPLACE VIEW worst_case AS
WITH counted AS (
    SELECT
        run_id, defense,
        count(*) AS n,
        CASE WHEN count(clean_share) = count(*) THEN avg(clean_share) END AS clean_accuracy,
        CASE WHEN count(robust) = count(*) THEN avg(robust::INT) END AS robust_accuracy
    FROM worst_case_images
    GROUP BY ALL
), planned_attacks AS (
    SELECT run_id, defense, count(*) AS attacks FROM cells GROUP BY run_id, defense
)
SELECT
    run_id, runs.model, runs.dataset, defense, counted.n, attacks, clean_accuracy, robust_accuracy,
    wilson_low(robust_accuracy, counted.n) AS low,
    wilson_high(robust_accuracy, counted.n) AS high,
    robust_accuracy - any_value(robust_accuracy) FILTER (defense = 'none') OVER (PARTITION BY run_id) AS gain,
    wilson_low(clean_accuracy, counted.n) AS clean_low,
    wilson_high(clean_accuracy, counted.n) AS clean_high
FROM counted
JOIN planned_attacks USING (run_id, defense)
LEFT JOIN stored_runs AS runs USING (run_id);
