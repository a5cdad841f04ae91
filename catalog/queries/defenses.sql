-- AutoAttack on every defense: computed on the undefended model and carried over (tr-aa), and computed on the defense
-- itself (aa), on so many images each. `won` and `lost` count the images under tr-aa that the defense classifies
-- right where the undefended model fails, and the reverse. An image that several runs judged counts as right only if
-- it was so in all of them; a share over an image without a verdict is NULL.
WITH judged AS (
    SELECT model_id, dataset, norm, epsilon, defense, defense_id, attack, image_id,
        bool_and(clean_prediction = label) AS clean,
        bool_and(CASE status WHEN 'error' THEN NULL WHEN 'skipped' THEN NULL ELSE status = 'robust' END) AS robust,
        bool_or(status IN ('error', 'skipped')) AS unknown
    FROM outcomes
    WHERE attack IN ('aa', 'tr-aa')
    GROUP BY ALL
),
paired AS (
    SELECT judged.*, undefended.robust AS undefended
    FROM judged
    LEFT JOIN (SELECT * FROM judged WHERE defense = 'none' AND attack = 'tr-aa') AS undefended
        USING (model_id, dataset, norm, epsilon, image_id)
)
SELECT
    defense,
    round(epsilon, 4) AS eps,
    count(*) FILTER (attack = 'tr-aa') AS n,
    round(avg(clean::INT) FILTER (attack = 'tr-aa'), 4) AS clean,
    CASE WHEN NOT bool_or(unknown) FILTER (attack = 'tr-aa') THEN
        round(avg(robust::INT) FILTER (attack = 'tr-aa'), 4)
    END AS "tr-aa",
    count(*) FILTER (attack = 'tr-aa' AND robust AND NOT undefended) AS won,
    count(*) FILTER (attack = 'tr-aa' AND NOT robust AND undefended) AS lost,
    nullif(count(*) FILTER (attack = 'aa'), 0) AS "n (aa)",
    CASE WHEN NOT bool_or(unknown) FILTER (attack = 'aa') THEN
        round(avg(robust::INT) FILTER (attack = 'aa'), 4)
    END AS aa
FROM paired
GROUP BY model_id, dataset, norm, epsilon, defense, defense_id
ORDER BY model_id, dataset, norm, epsilon, defense <> 'none', defense, defense_id
