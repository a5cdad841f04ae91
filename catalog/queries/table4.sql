-- The paper's table 4 (ImageNet-1k with ResNet-50: FAT, RTB): clean accuracy, AutoAttack and the worst case
-- over the nine attacks in percent, with its 95 % interval and its gain over no defense, for each defense of a run.
SELECT run_id, model, dataset, defense, n, clean, aa, iwwc, low, high, gain
FROM robustness_table
ORDER BY run_id, defense <> 'none', defense
