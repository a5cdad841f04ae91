-- The transfers to the undefended model that are an attack of the run on it anew, under another name.
CREATE OR REPLACE VIEW twins AS
SELECT transfers.run_id, transfers.defense, transfers.attack
FROM cells AS transfers
JOIN cells AS direct
    ON direct.run_id = transfers.run_id AND direct.defense = 'none' AND transfer_of(direct.attack) = transfers.attack
WHERE transfers.defense = 'none';

-- Which attacks broke each image under each defense, in alphabetical order; none where they left it robust or the defense
-- gets it wrong without an attack. Twins do not count. `known` says whether every planned attack has a verdict of its own
-- on the image: one that is missing, failed, or skipped because another attack had broken the image before, might have
-- broken it, too. The audit's attacks are aimed at what all others leave: what these skip is known.
-- Once for several.
CREATE OR REPLACE VIEW broken_by AS
SELECT
    any_value(run_id) AS run_id, any_value(defense) AS defense, image_id,
    coalesce(list(attack ORDER BY attack) FILTER (NOT robust AND clean_correct AND NOT skipped AND NOT error), [])
        AS attacks,
    bool_and(robust IS NOT NULL AND NOT error AND (audit OR NOT skipped)) AS known
FROM numbered_verdicts
ANTI JOIN twins USING (run_id, defense, attack)
GROUP BY target, image_id;

-- Of each attack on each defense: how many images it broke, and how many of them no other attack broke. `broken` is NULL
-- until the attack has finished on every image. `alone` is NULL then, too, and where some other attack has no verdict of
-- its own on an image that counts. Twins, and the look at clean images, have no row.
CREATE OR REPLACE VIEW broken_alone AS
WITH broken AS (
    SELECT run_id, defense, unnest(attacks) AS attack, len(attacks) = 1 AS alone, known FROM broken_by
), counted AS (
    SELECT
        run_id, defense, attack,
        count(*) FILTER (alone) AS alone,
        count(*) FILTER (alone AND NOT known) AS unknown
    FROM broken
    GROUP BY ALL
)
SELECT
    run_id, defense, attack, attacked, broken,
    CASE WHEN broken IS NOT NULL AND coalesce(unknown, 0) = 0 THEN coalesce(alone, 0) END AS alone
FROM attacked
ANTI JOIN twins USING (run_id, defense, attack)
LEFT JOIN counted USING (run_id, defense, attack)
WHERE attack <> 'clean';
