-- Each run's table: clean and robust accuracy in percent for each defense and attack, then the worst case of all.
WITH cells AS (
    SELECT run_id, defense, attack, 0 AS last, n, clean_accuracy, robust_accuracy, low, high FROM accuracy
    UNION ALL
    SELECT run_id, defense, 'worst case', 1, n, clean_accuracy, robust_accuracy, low, high FROM worst_case
)
SELECT
    cells.run_id, cells.defense, cells.attack, cells.n,
    round(100 * cells.clean_accuracy, 2) AS clean,
    round(100 * cells.robust_accuracy, 2) AS robust,
    round(100 * cells.low, 2) AS low,
    round(100 * cells.high, 2) AS high
FROM cells
LEFT JOIN runs USING (run_id)
ORDER BY runs.created_at, cells.run_id, cells.defense <> 'none', cells.defense, cells.last, cells.attack;
