-- The change of mean activations in percent for each set of neurons, successful and unsuccessful attacks apart (the
-- paper's figure 2 and table 7), with the 95 % interval of the mean. An image whose set is empty, or silent before the
-- attack, counts in no mean.
SELECT
    run_id, defense, attack, broken, neurons,
    count(change) AS n,
    round(avg(change), 2) AS change,
    round(avg(change) - z_95() * stddev_samp(change) / sqrt(count(change)), 2) AS low,
    round(avg(change) + z_95() * stddev_samp(change) / sqrt(count(change)), 2) AS high
FROM activation_changes
GROUP BY run_id, defense, attack, broken, neurons
ORDER BY run_id, defense, attack, broken DESC, neurons
