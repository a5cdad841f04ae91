-- What all attacks but the audit's say of each image, and what all of them say; of runs with an audit only. Where there
-- is no other attack, the clean image says it.
CREATE OR REPLACE VIEW audit_images AS
SELECT
    verdicts.run_id, verdicts.defense, verdicts.image_id,
    CASE
        WHEN bool_and(is_audit(attack)) THEN bool_and(clean_correct)
        WHEN bool_and(verdicts.robust IS NOT NULL AND NOT error) FILTER (NOT is_audit(attack))
            THEN bool_and(verdicts.robust) FILTER (NOT is_audit(attack))
    END AS robust,
    CASE WHEN bool_and(verdicts.robust IS NOT NULL AND NOT error) THEN bool_and(verdicts.robust) END AS audited
FROM verdicts
SEMI JOIN (FROM cells WHERE is_audit(attack)) AS audits USING (run_id)
GROUP BY verdicts.run_id, verdicts.defense, verdicts.image_id;

-- One row for each defense of a run with an audit: the worst case over the other attacks, and over all of them. Each is
-- NULL until its attacks have finished on every image, and after any error. A defense that no audit attack fits has
-- the same worst case twice.
CREATE OR REPLACE VIEW audit AS
WITH images AS MATERIALIZED (
    FROM audit_images
), counted AS (
    SELECT
        run_id, defense,
        count(*) AS n,
        CASE WHEN count(robust) = count(*) THEN avg(robust::INT) END AS robust_accuracy,
        CASE WHEN count(audited) = count(*) THEN avg(audited::INT) END AS audited_accuracy,
        CASE WHEN count(robust) = count(*) AND count(audited) = count(*) THEN
            count(*) FILTER (robust AND NOT audited)
        END AS broken_by_audit
    FROM images
    GROUP BY ALL
), undefended AS (
    -- On the images of each defense.
    SELECT
        run_id, defended.defense,
        count(*) AS n,
        CASE WHEN count(base.robust) = count(*) THEN avg(base.robust::INT) END AS robust_accuracy,
        CASE WHEN count(base.audited) = count(*) THEN avg(base.audited::INT) END AS audited_accuracy
    FROM images AS defended
    JOIN images AS base USING (run_id, image_id)
    WHERE base.defense = 'none'
    GROUP BY run_id, defended.defense
), planned_attacks AS (
    SELECT run_id, defense, count(*) FILTER (is_audit(attack)) AS audit_attacks FROM cells GROUP BY run_id, defense
)
SELECT
    run_id, runs.model, runs.dataset, defense, counted.n, counted.robust_accuracy,
    wilson_low(counted.robust_accuracy, counted.n) AS low,
    wilson_high(counted.robust_accuracy, counted.n) AS high,
    counted.robust_accuracy - CASE
        WHEN undefended.n = counted.n THEN undefended.robust_accuracy
        ELSE any_value(counted.robust_accuracy) FILTER (defense = 'none') OVER (PARTITION BY run_id)
    END AS gain,
    counted.audited_accuracy,
    wilson_low(counted.audited_accuracy, counted.n) AS audited_low,
    wilson_high(counted.audited_accuracy, counted.n) AS audited_high,
    counted.audited_accuracy - CASE
        WHEN undefended.n = counted.n THEN undefended.audited_accuracy
        ELSE any_value(counted.audited_accuracy) FILTER (defense = 'none') OVER (PARTITION BY run_id)
    END AS audited_gain,
    broken_by_audit, audit_attacks
FROM counted
JOIN planned_attacks USING (run_id, defense)
LEFT JOIN undefended USING (run_id, defense)
LEFT JOIN stored_runs AS runs USING (run_id);

-- What each audit attack found: the images that all before it had left to it, and those of them that it broke or that
-- the defense, asked afresh, got wrong without an attack. NULL until it, and all other attacks, have finished on every
-- image.
CREATE OR REPLACE VIEW audit_attacks AS
WITH counted AS (
    SELECT
        run_id, defense, attack,
        bool_and(verdicts.robust IS NOT NULL AND NOT error AND images.robust IS NOT NULL) AS finished,
        count(*) FILTER (images.robust AND NOT skipped) AS attacked,
        count(*) FILTER (images.robust AND NOT skipped AND NOT verdicts.robust) AS newly_broken
    FROM verdicts
    JOIN audit_images AS images USING (run_id, defense, image_id)
    WHERE is_audit(attack)
    GROUP BY ALL
)
SELECT
    run_id, defense, attack,
    CASE WHEN finished THEN attacked END AS attacked,
    CASE WHEN finished THEN newly_broken END AS newly_broken
FROM counted;
