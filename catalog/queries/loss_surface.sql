-- The mean loss over images along the sign of the gradient (x) and an orthogonal direction (y), in multiples of eps (the
-- paper's figure 8).
SELECT run_id, defense, x, y, count(*) AS n, round(avg(loss), 5) AS loss
FROM loss_surface
GROUP BY run_id, defense, x, y
ORDER BY run_id, defense <> 'none', defense, y, x
