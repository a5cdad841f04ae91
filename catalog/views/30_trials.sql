-- Trials, with the one that the finished search chose marked.
CREATE OR REPLACE VIEW trials AS
SELECT
    trials.*,
    searches.search_id IS NOT NULL
        AND trials.k IS NOT DISTINCT FROM searches.k
        AND trials.sigma IS NOT DISTINCT FROM searches.sigma
        AND trials.tau IS NOT DISTINCT FROM searches.tau
        AND trials.draws IS NOT DISTINCT FROM searches.draws AS chosen
FROM stored_trials AS trials
LEFT JOIN stored_searches AS searches USING (search_id);
