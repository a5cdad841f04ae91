-- How much two rankings agree on the neurons of each class: Spearman's correlation, rank-biased overlap (p = 0.9), and
-- the Jaccard index of their k best neurons.
SELECT
    run_id, ranking, other_ranking, class_id, class_name,
    round(spearman, 4) AS spearman,
    round(rank_biased_overlap, 4) AS rank_biased_overlap,
    round(max(jaccard) FILTER (k = 1), 4) AS jaccard_1,
    round(max(jaccard) FILTER (k = 8), 4) AS jaccard_8,
    round(max(jaccard) FILTER (k = 16), 4) AS jaccard_16,
    round(max(jaccard) FILTER (k = 50), 4) AS jaccard_50
FROM ranking_agreement
JOIN ranking_overlap USING (run_id, ranking, other_ranking, class_id, class_name)
GROUP BY ALL
ORDER BY run_id, ranking, other_ranking, class_id
