-- What each adaptive attack of an audit found: the images that all attacks before it had left to it, and those of them
-- that it broke or that the defense, asked afresh, got wrong without an attack. NULL after an error; a run that has not
-- finished has no rows.
WITH finished AS (
    SELECT run_id FROM progress WHERE planned = done + failed + quarantined
), verdicts AS (
    SELECT run_id, defense, attack, image_id,
        starts_with(attack, 'audit-') AS is_audit,
        any_value(model) AS model,
        bool_and(clean_prediction = label) AS clean,
        bool_or(status = 'skipped') AS skipped,
        CASE WHEN NOT bool_or(status = 'error') THEN bool_and(status = 'robust') END AS robust
    FROM outcomes
    SEMI JOIN finished USING (run_id)
    GROUP BY ALL
), images AS (
    -- Where there is no other attack, the clean image says what the audit had to attack.
    SELECT run_id, defense, image_id,
        CASE
            WHEN bool_and(is_audit) THEN bool_and(clean)
            WHEN bool_and(robust IS NOT NULL) FILTER (NOT is_audit) THEN bool_and(robust) FILTER (NOT is_audit)
        END AS robust
    FROM verdicts
    GROUP BY run_id, defense, image_id
), counted AS (
    SELECT run_id, defense, attack,
        any_value(model) AS model,
        bool_and(verdicts.robust IS NOT NULL AND images.robust IS NOT NULL) AS finished,
        count(*) FILTER (images.robust AND NOT skipped) AS attacked,
        count(*) FILTER (images.robust AND NOT skipped AND NOT verdicts.robust) AS newly_broken
    FROM verdicts
    JOIN images USING (run_id, defense, image_id)
    WHERE is_audit
    GROUP BY ALL
)
SELECT
    run_id, model, defense, attack,
    CASE WHEN finished THEN attacked END AS attacked,
    CASE WHEN finished THEN newly_broken END AS newly_broken
FROM counted
ORDER BY run_id, model, defense <> 'none', defense, attack
