-- How far two attacks on a defense break the same images: those that both broke, those that one of them broke alone, and
-- the share of both in what either broke (Jaccard index). NULL where either has an image without a verdict of its own;
-- the index is NULL, too, where neither broke any.
WITH broken AS (
    SELECT
        run_id, defense, attack, image_id,
        CASE WHEN NOT error AND NOT skipped THEN NOT robust AND clean_correct END AS broken
    FROM verdicts
    ANTI JOIN twins USING (run_id, defense, attack)
    WHERE attack <> 'clean'
), pairs AS (
    SELECT
        run_id, defense, a.attack AS attack, b.attack AS other,
        count(*) AS images,
        count(*) FILTER (a.broken IS NOT NULL AND b.broken IS NOT NULL) AS known,
        count(*) FILTER (a.broken AND b.broken) AS common,
        count(*) FILTER (a.broken AND NOT b.broken) AS alone,
        count(*) FILTER (b.broken AND NOT a.broken) AS other_alone
    FROM broken AS a
    JOIN broken AS b USING (run_id, defense, image_id)
    WHERE a.attack < b.attack
    GROUP BY ALL
)
SELECT
    run_id, defense, attack, other,
    CASE WHEN known = images THEN common END AS "both",
    CASE WHEN known = images THEN alone END AS attack_alone,
    CASE WHEN known = images THEN other_alone END AS other_alone,
    CASE WHEN known = images THEN round(common / nullif(common + alone + other_alone, 0), 4) END AS jaccard
FROM pairs
ORDER BY run_id, defense <> 'none', defense, attack, other
