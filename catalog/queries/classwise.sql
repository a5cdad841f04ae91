-- The best and the worst class of each defense in the worst case over all planned attacks (the paper's table 11); of equal
-- ones the first.
SELECT
    run_id, defense,
    arg_max(label, (robust_accuracy, -label)) AS best_class,
    max(robust_accuracy) AS best_robust_accuracy,
    arg_max(n, (robust_accuracy, -label)) AS best_n,
    arg_min(label, (robust_accuracy, label)) AS worst_class,
    min(robust_accuracy) AS worst_robust_accuracy,
    arg_min(n, (robust_accuracy, label)) AS worst_n
FROM class_accuracy
GROUP BY run_id, defense
-- One class that is not known yet could be the best or the worst.
HAVING count(robust_accuracy) = count(*)
ORDER BY run_id, defense <> 'none', defense
