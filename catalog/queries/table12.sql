-- The paper's table 12, in forward passes of the base model over the same images in place of minutes: what ranking takes.
SELECT
    run_id, any_value(model) AS model, defense AS method, count(*) AS repetitions,
    round(median(forward_passes), 2) AS forward_passes,
    round(min(forward_passes), 2) AS least,
    round(max(forward_passes), 2) AS most
FROM relative_cost
WHERE quantity = 'ranking'
GROUP BY run_id, defense
ORDER BY run_id, defense
