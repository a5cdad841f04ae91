-- Of each attack on each defense: the images that it attacked and broke, and those of them that it alone broke. `alone`
-- is NULL where an attack is missing, failed or skipped an image that counts.
SELECT run_id, defense, attack, attacked, broken, alone
FROM broken_alone
ORDER BY run_id, defense <> 'none', defense, attack
