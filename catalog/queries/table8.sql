-- The paper's table 8: clean and robust accuracy in percent under each of the nine attacks, with their published
-- budgets, and in their image-wise worst case (iwwc), with its 95 % interval; then in the worst case after the audit's
-- adaptive attacks, too.
-- One row for each defense of a run with nothing left to do, each image counted once; a run that has not finished has
-- none. A share over an image that failed is NULL; one that an attack skipped, because another had broken it, has none
-- there and is broken in the worst case. The worst case asks for all nine, but for transfers to the undefended model,
-- which attacks on it stand for.
WITH finished AS (
    SELECT run_id FROM progress WHERE planned = done + failed + quarantined
), verdicts AS (
    SELECT run_id, defense, attack, image_id,
        attack IN (
            'aa', 'rays', 'apgd-eot', 'tr-apgd-ce', 'tr-apgd-cw', 'tr-apgd-t-dlr', 'tr-aa', 'tr-rays', 'tr-apgd-eot'
        ) AS is_nine,
        starts_with(attack, 'audit-') AS is_audit,
        any_value(model) AS model,
        any_value(epsilon) AS epsilon,
        bool_and(clean_prediction = label) AS clean,
        bool_or(status = 'skipped') AS skipped,
        CASE WHEN NOT bool_or(status = 'error') THEN bool_and(status = 'robust') END AS robust
    FROM outcomes
    SEMI JOIN finished USING (run_id)
    GROUP BY ALL
), images AS (
    SELECT run_id, defense, image_id,
        any_value(model) AS model,
        any_value(epsilon) AS epsilon,
        -- The attack 'clean' measures this; without it, every attack's own look at the clean image counts alike.
        coalesce(avg(clean::INT) FILTER (attack = 'clean'), avg(clean::INT)) AS clean,
        count(robust) FILTER (is_nine) AS nine,
        count(robust) FILTER (is_nine AND NOT starts_with(attack, 'tr-')) AS direct,
        count(robust) FILTER (is_audit) AS audits,
        coalesce(bool_or(robust IS NULL) FILTER (is_nine), false) AS nine_failed,
        coalesce(bool_or(robust IS NULL) FILTER (is_audit), false) AS audit_failed,
        bool_and(robust) FILTER (is_nine) AS robust,
        bool_and(robust) FILTER (is_nine OR is_audit) AS audited
    FROM verdicts
    GROUP BY ALL
), worst AS (
    SELECT run_id, defense,
        any_value(model) AS model,
        any_value(epsilon) AS epsilon,
        count(*) AS n,
        avg(clean) AS clean,
        CASE WHEN
            min(nine) = max(nine) AND (min(nine) = 9 OR (defense = 'none' AND min(direct) = 3))
            AND NOT bool_or(nine_failed)
        THEN
            avg(robust::INT)
        END AS iwwc,
        CASE WHEN min(audits) = max(audits) AND NOT bool_or(audit_failed) THEN avg(audited::INT) END AS audited
    FROM images
    GROUP BY run_id, defense
), cells AS (
    SELECT run_id, defense, attack,
        count(*) AS n,
        CASE WHEN NOT bool_or(skipped OR robust IS NULL) THEN round(100 * avg(robust::INT), 2) END AS accuracy
    FROM verdicts
    WHERE is_nine
    GROUP BY ALL
), paper AS (
    PIVOT (SELECT run_id, defense, attack, accuracy FROM cells JOIN worst USING (run_id, defense, n))
    ON attack IN (
        'aa', 'rays', 'apgd-eot', 'tr-apgd-ce', 'tr-apgd-cw', 'tr-apgd-t-dlr', 'tr-aa', 'tr-rays', 'tr-apgd-eot'
    )
    USING any_value(accuracy)
)
SELECT
    run_id, model, round(epsilon, 4) AS eps, defense, n,
    round(100 * clean, 2) AS clean,
    paper.* EXCLUDE (run_id, defense),
    round(100 * iwwc, 2) AS iwwc,
    round(100 * wilson_low(iwwc, n), 2) AS low,
    round(100 * wilson_high(iwwc, n), 2) AS high,
    CASE WHEN run_id IN (SELECT run_id FROM verdicts WHERE is_audit) AND iwwc IS NOT NULL THEN
        round(100 * audited, 2)
    END AS audited
FROM worst
LEFT JOIN paper USING (run_id, defense)
ORDER BY run_id, model, defense <> 'none', defense
