-- The order in which a cascade of a run's attacks would have cost the fewest passes, by the greedy rule: next comes the
-- attack that breaks the most of the images still left for each pass that it takes on them. `passes` is what it would
-- take, at its mean cost for each image that it attacked; `left_over` are the images that are left after it. Only defenses
-- on which every attack has a verdict of its own on every image have an order: a cascade does not tell what its later
-- attacks would have broken.
WITH RECURSIVE complete AS MATERIALIZED (
    SELECT run_id, defense FROM broken_by GROUP BY run_id, defense HAVING bool_and(known)
), attacks AS MATERIALIZED (
    SELECT
        run_id, defense, attack,
        list(image_id) FILTER (NOT robust AND clean_correct) AS broken,
        (sum(forwards) + sum(coalesce(backwards, 0))) / nullif(count(*) FILTER (clean_correct), 0) AS passes_per_image
    FROM verdicts
    ANTI JOIN twins USING (run_id, defense, attack)
    SEMI JOIN complete USING (run_id, defense)
    WHERE attack <> 'clean'
    GROUP BY run_id, defense, attack
), start AS MATERIALIZED (
    SELECT run_id, defense, list(DISTINCT image_id) FILTER (clean_correct) AS images
    FROM verdicts
    SEMI JOIN complete USING (run_id, defense)
    GROUP BY run_id, defense
), steps AS (
    SELECT
        run_id, defense, 0 AS place, NULL::VARCHAR AS attack, []::VARCHAR[] AS done, 0::BIGINT AS newly_broken,
        NULL::DOUBLE AS passes, coalesce(images, []) AS images
    FROM start
    UNION ALL
    SELECT run_id, defense, place, attack, done, newly_broken, passes, images
    FROM (
        SELECT
            steps.run_id, steps.defense, steps.place + 1 AS place, attacks.attack,
            list_append(steps.done, attacks.attack) AS done,
            len(list_intersect(steps.images, coalesce(attacks.broken, []))) AS newly_broken,
            len(steps.images) * attacks.passes_per_image AS passes,
            list_filter(steps.images, lambda image: NOT list_contains(coalesce(attacks.broken, []), image)) AS images
        FROM steps
        JOIN attacks
            ON attacks.run_id = steps.run_id AND attacks.defense = steps.defense
            AND NOT list_contains(steps.done, attacks.attack)
    )
    QUALIFY row_number() OVER (
        PARTITION BY run_id, defense ORDER BY newly_broken / nullif(passes, 0) DESC NULLS LAST, passes, attack
    ) = 1
)
SELECT run_id, defense, place, attack, newly_broken, round(passes)::BIGINT AS passes, len(images) AS left_over
FROM steps
WHERE place > 0
ORDER BY run_id, defense <> 'none', defense, place
