-- The paper's table 10: robust accuracy in percent over eps, and the gain over no defense in points.
SELECT
    run_id, place AS eps, defense, attack, n,
    round(100 * robust_accuracy, 2) AS robust,
    round(100 * low, 2) AS low,
    round(100 * high, 2) AS high,
    round(100 * (robust_accuracy - any_value(robust_accuracy) FILTER (defense = 'none') OVER (
        PARTITION BY run_id, attack, place
    )), 2) AS gain
FROM sensitivity
WHERE setting = 'eps' AND coalesce(other_setting, '') = ''
ORDER BY run_id, attack, number, defense <> 'none', defense
