-- Clean and robust accuracy of each class in percent, in the worst case over all planned attacks, with the 95 % interval.
SELECT
    run_id, defense, label, n,
    round(100 * clean_accuracy, 2) AS clean,
    round(100 * robust_accuracy, 2) AS robust,
    round(100 * low, 2) AS low,
    round(100 * high, 2) AS high
FROM class_accuracy
ORDER BY run_id, defense <> 'none', defense, label
