-- What rankings and defenses cost, in forward passes of the base model over the same images: the median of alternating
-- measurements, with the least and the most (the paper's table 12, and "2 x" for inference).
SELECT
    run_id, defense, quantity,
    count(*) AS repetitions,
    round(median(forward_passes), 2) AS forward_passes,
    round(min(forward_passes), 2) AS least,
    round(max(forward_passes), 2) AS most,
    round(median(seconds), 4) AS seconds
FROM relative_cost
GROUP BY run_id, defense, quantity
ORDER BY run_id, quantity, defense
