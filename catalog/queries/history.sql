-- The history of each model over the runs on it: clean accuracy and worst case of each defense, the latest run last, and
-- how far each differs from the last one before it, on the same data and threat model, that has a worst case. The runs'
-- images and attacks may differ: `n` and `attacks` are their numbers.
WITH finished AS (
    SELECT
        runs.model, runs.model_id, runs.dataset, runs.norm, runs.epsilon, defense, runs.created_at, run_id,
        worst_case.n, attacks, clean_accuracy, robust_accuracy, low, high, gain,
        last_value(robust_accuracy IGNORE NULLS) OVER (
            PARTITION BY runs.model_id, runs.dataset, runs.norm, runs.epsilon, defense
            ORDER BY runs.created_at, run_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS before
    FROM worst_case
    JOIN runs USING (run_id)
)
SELECT
    model, dataset, norm, round(epsilon, 4) AS eps, defense, created_at, run_id, n, attacks,
    round(clean_accuracy, 4) AS clean,
    round(robust_accuracy, 4) AS worst_case,
    round(low, 4) AS low,
    round(high, 4) AS high,
    round(gain, 4) AS gain,
    round(robust_accuracy - before, 4) AS change
FROM finished
ORDER BY model, model_id, dataset, norm, epsilon, defense <> 'none', defense, created_at, run_id
