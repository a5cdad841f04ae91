-- The paper's table 1 (CIFAR-10 with ResNet-18: GAT or NuAT, OAAT, DAJAT): clean accuracy, AutoAttack and the worst case
-- over the nine attacks in percent, with its 95 % interval and its gain over no defense, for each defense of a run.
SELECT run_id, model, dataset, defense, n, clean, aa, iwwc, low, high, gain
FROM robustness_table
ORDER BY run_id, defense <> 'none', defense
