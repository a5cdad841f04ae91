-- Of each defense of a run: the images that are robust in its worst case and in that of no other defense. NULL where the
-- worst case of any defense is not known on an image that may count.
WITH images AS (
    SELECT
        run_id, image_id,
        list(defense ORDER BY defense) FILTER (robust) AS robust,
        list(defense ORDER BY defense) FILTER (robust IS NULL) AS unknown
    FROM worst_case_images
    GROUP BY run_id, image_id
), judged AS (
    SELECT
        run_id, worst.defense,
        CASE
            WHEN len(images.robust) > 1 THEN false
            WHEN worst.robust AND unknown IS NULL THEN true
            WHEN NOT worst.robust THEN false
            -- It, or another, may be the only one; where another is, it is not.
            WHEN worst.robust IS NULL AND images.robust IS NOT NULL THEN false
        END AS alone
    FROM worst_case_images AS worst
    JOIN images USING (run_id, image_id)
)
SELECT
    run_id, defense,
    count(*) AS n,
    CASE WHEN count(alone) = count(*) THEN count(*) FILTER (alone) END AS robust_here_only
FROM judged
GROUP BY run_id, defense
ORDER BY run_id, defense <> 'none', defense
