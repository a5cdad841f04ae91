-- AutoAttack on every defense: computed on the undefended model and carried over (tr-aa), and computed on the defense
-- itself (aa), on so many images each. `won` and `lost` count the images under tr-aa that the defense classifies
-- right where the undefended model fails, and the reverse.
WITH judged AS (
    SELECT DISTINCT model, dataset, defense, defense_id, attack, image_id,
        clean_prediction = label AS clean, status = 'robust' AS robust
    FROM outcomes
    WHERE attack IN ('aa', 'tr-aa')
),
paired AS (
    SELECT judged.*, undefended.robust AS undefended
    FROM judged
    LEFT JOIN (SELECT * FROM judged WHERE defense = 'none' AND attack = 'tr-aa') AS undefended
        USING (model, dataset, image_id)
)
SELECT
    defense,
    count(*) FILTER (attack = 'tr-aa') AS n,
    round(avg(clean::INT) FILTER (attack = 'tr-aa'), 4) AS clean,
    round(avg(robust::INT) FILTER (attack = 'tr-aa'), 4) AS "tr-aa",
    count(*) FILTER (attack = 'tr-aa' AND robust AND NOT undefended) AS won,
    count(*) FILTER (attack = 'tr-aa' AND NOT robust AND undefended) AS lost,
    nullif(count(*) FILTER (attack = 'aa'), 0) AS "n (aa)",
    round(avg(robust::INT) FILTER (attack = 'aa'), 4) AS aa
FROM paired
GROUP BY model, dataset, defense, defense_id
ORDER BY model, dataset, defense <> 'none', defense, defense_id
