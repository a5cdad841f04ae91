-- How many images each attack on each defense had to attack, and how many of them it broke. An image that was skipped,
-- because another attack had broken it before, or that the defense gets wrong without an attack, is neither. NULL until
-- the attack has finished on every image.
CREATE OR REPLACE VIEW attacked AS
WITH counted AS (
    SELECT
        cell,
        count(*) FILTER (skipped) AS skipped,
        CASE WHEN bool_and(robust IS NOT NULL AND NOT error) THEN count(*) FILTER (NOT skipped AND clean_correct) END
            AS attacked,
        CASE WHEN bool_and(robust IS NOT NULL AND NOT error) THEN
            count(*) FILTER (NOT skipped AND clean_correct AND NOT robust)
        END AS broken
    FROM numbered_verdicts
    GROUP BY cell
)
SELECT run_id, defense, attack, skipped, attacked, broken
FROM counted
JOIN cells USING (cell);
