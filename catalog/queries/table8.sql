-- The paper's table 8: clean and robust accuracy in percent under each of the nine attacks, with their published
-- budgets, and in their image-wise worst case (iwwc), with its 95 % interval; then in the worst case after the audit's
-- adaptive attacks, too.
-- One row for each defense of a run with nothing left to do, each image counted once; a run that has not finished has
-- none. A share over an image that failed is NULL; one that an attack skipped, because another had broken it, has none
-- there and is broken in the worst case. The worst case asks for all nine, but for transfers to the undefended model,
-- which attacks on it stand for.
SELECT
    run_id, worst_case.model, round(runs.epsilon, 4) AS eps, defense, worst_case.n,
    round(100 * worst_case.clean_accuracy, 2) AS clean,
    nine_accuracies.* EXCLUDE (run_id, defense),
    round(100 * iwwc, 2) AS iwwc,
    round(100 * wilson_low(iwwc, worst_case.n), 2) AS low,
    round(100 * wilson_high(iwwc, worst_case.n), 2) AS high,
    CASE WHEN iwwc IS NOT NULL AND run_id IN (SELECT run_id FROM cells WHERE is_audit(attack)) THEN
        round(100 * audited, 2)
    END AS audited
FROM worst_case
JOIN nine_worst_case USING (run_id, defense)
SEMI JOIN (FROM progress WHERE planned = done + failed + quarantined) AS finished USING (run_id)
LEFT JOIN nine_accuracies USING (run_id, defense)
LEFT JOIN runs USING (run_id)
ORDER BY run_id, worst_case.model, defense <> 'none', defense
