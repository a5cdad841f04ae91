-- What each attack cost on all defenses of a run: passes, queries and seconds, and how many passes and seconds each image
-- took that it broke. The points of a transfer are computed once, on the undefended model: what that took stands with the
-- transfer, and again with the attack of the same name.
-- NULL where the attack has not finished on every image of every defense; a cost of one image is NULL, too, where none
-- was broken.
WITH summed AS (
    SELECT
        run_id, attack,
        count(*) AS defenses,
        bool_and(broken IS NOT NULL) AS finished,
        sum(attacked)::BIGINT AS attacked,
        sum(broken)::BIGINT AS broken,
        sum(forwards)::BIGINT AS forwards,
        sum(backwards)::BIGINT AS backwards,
        sum(queries)::BIGINT AS queries,
        sum(seconds) AS seconds
    FROM accuracy
    JOIN attacked USING (run_id, defense, attack)
    GROUP BY run_id, attack
)
SELECT
    run_id, attack, defenses,
    CASE WHEN finished THEN attacked END AS attacked,
    CASE WHEN finished THEN broken END AS broken,
    CASE WHEN finished THEN forwards END AS forwards,
    CASE WHEN finished THEN backwards END AS backwards,
    CASE WHEN finished THEN queries END AS queries,
    CASE WHEN finished THEN round(seconds, 1) END AS seconds,
    CASE WHEN finished THEN round((forwards + backwards) / nullif(broken, 0), 1) END AS passes_per_broken_image,
    CASE WHEN finished THEN round(seconds / nullif(broken, 0), 3) END AS seconds_per_broken_image
FROM summed
ORDER BY run_id, summed.seconds DESC NULLS LAST, attack
