-- The paper's table 6 (ablation): forward passes, noise in the first one (rs), and what they leave, in percent.
SELECT
    run_id, robustness_table.model, defense,
    CASE WHEN defense IN ('none', 'smoothing-only') THEN 1 ELSE 2 END AS passes,
    settings.sigma > 0 AS rs,
    n, clean, aa, iwwc, low, high
FROM robustness_table
LEFT JOIN (SELECT run_id, defense, any_value(sigma) AS sigma FROM outcomes GROUP BY run_id, defense) AS settings
    USING (run_id, defense)
ORDER BY run_id, passes, defense <> 'none', defense, rs
