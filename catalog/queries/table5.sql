-- The paper's table 5 (existing test-time defenses on CIFAR-10: hedge, sodef, anti-adversary): clean accuracy, AutoAttack and the worst case
-- over the nine attacks in percent, with its 95 % interval and its gain over no defense, for each defense of a run.
SELECT run_id, model, dataset, defense, n, clean, aa, iwwc, low, high, gain
FROM robustness_table
ORDER BY run_id, defense <> 'none', defense
