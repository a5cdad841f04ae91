-- What all planned attacks together say of each image: robust only if every one of them left it robust.
-- Broken, misclassified and skipped (broken before by another attack) are not robust.
CREATE OR REPLACE VIEW worst_case_images AS
SELECT
    run_id, defense, image_id,
    count(*) AS attacks,
    CASE WHEN count(robust) = count(*) AND NOT bool_or(error) THEN bool_and(robust) END AS robust,
    -- The attack 'clean' measures this; without it, every attack's own look at the clean image counts alike.
    coalesce(avg(clean_correct::INT) FILTER (attack = 'clean'), avg(clean_correct::INT)) AS clean_share
FROM verdicts
GROUP BY ALL;

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
    SELECT run_id, defense, count(DISTINCT attack) AS attacks FROM planned GROUP BY ALL
)
SELECT
    counted.run_id, runs.model, runs.dataset, counted.defense, counted.n, attacks, counted.clean_accuracy,
    counted.robust_accuracy,
    wilson_low(counted.robust_accuracy, counted.n) AS low,
    wilson_high(counted.robust_accuracy, counted.n) AS high,
    counted.robust_accuracy - undefended.robust_accuracy AS gain,
    wilson_low(counted.clean_accuracy, counted.n) AS clean_low,
    wilson_high(counted.clean_accuracy, counted.n) AS clean_high
FROM counted
JOIN planned_attacks USING (run_id, defense)
LEFT JOIN stored_runs AS runs USING (run_id)
LEFT JOIN counted AS undefended ON undefended.run_id = counted.run_id AND undefended.defense = 'none';
