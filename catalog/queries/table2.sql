-- The paper's table 2 (CIFAR-10 with WideResNet-34-10: NuAT, TR-AWP, DAJAT): clean accuracy, AutoAttack and the worst case
-- over the nine attacks in percent, with its 95 % interval and its gain over no defense, for each defense of a run.
SELECT run_id, model, dataset, defense, n, clean, aa, iwwc, low, high, gain
FROM robustness_table
ORDER BY run_id, defense <> 'none', defense
