-- Trials, with the one that the finished search chose marked, and those that no other of the search beats in both k and
-- clean accuracy. Where k is one for each class, mean_k is their mean.
CREATE OR REPLACE VIEW trials AS
WITH sized AS (
    SELECT *, coalesce(k, list_avg(class_k)) AS mean_k FROM stored_trials
), ordered AS (
    SELECT
        *,
        max(clean_accuracy) OVER (
            PARTITION BY search_id ORDER BY mean_k RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW EXCLUDE GROUP
        ) AS with_smaller_k,
        max(clean_accuracy) OVER (PARTITION BY search_id, mean_k) AS with_equal_k
    FROM sized
)
SELECT
    trials.* EXCLUDE (with_smaller_k, with_equal_k),
    trials.clean_accuracy >= with_equal_k AND (with_smaller_k IS NULL OR trials.clean_accuracy > with_smaller_k)
        AS pareto,
    refinements.robust_accuracy,
    searches.search_id IS NOT NULL
        AND trials.k IS NOT DISTINCT FROM searches.k
        AND trials.class_k IS NOT DISTINCT FROM searches.class_k
        AND trials.sigma IS NOT DISTINCT FROM searches.sigma
        AND trials.tau IS NOT DISTINCT FROM searches.tau
        AND trials.draws IS NOT DISTINCT FROM searches.draws AS chosen
FROM ordered AS trials
LEFT JOIN stored_refinements AS refinements USING (search_id, trial)
LEFT JOIN stored_searches AS searches USING (search_id);

-- Each search's (σ, τ, draws) with the best feasible trial. Below least_k all trials failed and from safe_k on all held:
-- in between clean accuracy wavers about the tolerance.
CREATE OR REPLACE VIEW search_settings AS
WITH tried AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY search_id, sigma, tau, draws
            ORDER BY NOT feasible, CASE WHEN feasible THEN mean_k END, -clean_accuracy, trial
        ) AS place,
        min(mean_k) FILTER (feasible) OVER setting AS least_k,
        max(mean_k) FILTER (NOT feasible) OVER setting AS largest_failed_k
    FROM trials
    WINDOW setting AS (PARTITION BY search_id, sigma, tau, draws)
)
SELECT
    search_id, model, dataset, method, layer, sigma, tau, draws, k, class_k, mean_k, least_k,
    min(mean_k) FILTER (feasible AND mean_k > coalesce(largest_failed_k, 0)) OVER setting AS safe_k,
    clean_accuracy, base_clean_accuracy, difference, difference_low, difference_high, feasible, robust_accuracy,
    count(*) OVER setting AS trials,
    bool_or(chosen) OVER setting AS chosen
FROM tried
WINDOW setting AS (PARTITION BY search_id, sigma, tau, draws)
QUALIFY place = 1;
