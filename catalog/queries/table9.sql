-- The paper's table 9: AutoAttack, a stronger AutoAttack (aa-strong) and Square alone, beside the worst case, in percent.
SELECT
    run_id, robustness_table.model, defense, n, clean, robustness_table.aa,
    stronger.aa_strong, stronger.square, iwwc, low, high
FROM robustness_table
LEFT JOIN (
    SELECT
        run_id, defense,
        round(100 * any_value(robust_accuracy) FILTER (attack = 'aa-strong'), 2) AS aa_strong,
        round(100 * any_value(robust_accuracy) FILTER (attack = 'square'), 2) AS square
    FROM accuracy
    GROUP BY run_id, defense
) AS stronger USING (run_id, defense)
ORDER BY run_id, defense <> 'none', defense
