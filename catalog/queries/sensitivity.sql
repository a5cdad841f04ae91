-- Clean and robust accuracy in percent along the setting that an analysis varies, or over two of them.
SELECT
    run_id, defense, attack, setting, place, nullif(other_setting, '') AS other_setting,
    nullif(other_place, '') AS other_place, n,
    round(100 * clean_accuracy, 2) AS clean,
    round(100 * robust_accuracy, 2) AS robust,
    round(100 * low, 2) AS low,
    round(100 * high, 2) AS high
FROM sensitivity
ORDER BY run_id, defense <> 'none', defense, attack, setting, number, place, other_number, other_place
