-- The paper's table 7: the mean change of activations in percent under successful attacks, for the best neurons of the true
-- class, of the class after the attack, of the remaining classes, and for neurons of no class; then under unsuccessful
-- ones, which have no class after the attack.
SELECT
    run_id, any_value(model) AS model, defense, attack,
    count(DISTINCT image_id) FILTER (broken) AS successful,
    round(avg(change) FILTER (broken AND neurons = 'true class'), 2) AS true_class,
    round(avg(change) FILTER (broken AND neurons = 'class after the attack'), 2) AS post_attack,
    round(avg(change) FILTER (broken AND neurons = 'remaining classes'), 2) AS remaining,
    round(avg(change) FILTER (broken AND neurons = 'no class'), 2) AS unimportant,
    count(DISTINCT image_id) FILTER (NOT broken) AS unsuccessful,
    round(avg(change) FILTER (NOT broken AND neurons = 'true class'), 2) AS failed_true_class,
    round(avg(change) FILTER (NOT broken AND neurons = 'remaining classes'), 2) AS failed_remaining,
    round(avg(change) FILTER (NOT broken AND neurons = 'no class'), 2) AS failed_unimportant
FROM activation_changes
GROUP BY run_id, defense, attack
ORDER BY run_id, defense, attack
