-- The paper's table 11: clean and robust accuracy in percent, averaged over classes, of the best and of the worst class.
-- NULL where a class is not known, as it could be the best or the worst.
SELECT
    run_id, defense, count(*) AS classes, sum(n)::BIGINT AS n,
    CASE WHEN count(clean_accuracy) = count(*) THEN round(100 * avg(clean_accuracy), 2) END AS clean,
    CASE WHEN count(robust_accuracy) = count(*) THEN round(100 * avg(robust_accuracy), 2) END AS robust,
    CASE WHEN count(clean_accuracy) = count(*) THEN round(100 * max(clean_accuracy), 2) END AS best_clean,
    CASE WHEN count(robust_accuracy) = count(*) THEN round(100 * max(robust_accuracy), 2) END AS best_robust,
    CASE WHEN count(clean_accuracy) = count(*) THEN round(100 * min(clean_accuracy), 2) END AS worst_clean,
    CASE WHEN count(robust_accuracy) = count(*) THEN round(100 * min(robust_accuracy), 2) END AS worst_robust
FROM class_accuracy
GROUP BY run_id, defense
ORDER BY run_id, defense <> 'none', defense
