-- What all planned attacks together say of each image: robust only if every one of them left it robust.
-- Broken, misclassified and skipped (broken before by another attack) are not robust. `nine_robust` goes by the nine
-- published attacks only, and by their number, `nine`, that have a verdict; the undefended model's transfers are the
-- attacks on it. `audited` goes by the audit's attacks, too, of which `audits` have a verdict.
-- Once for several.
CREATE OR REPLACE VIEW worst_case_images AS
WITH counted AS (
    SELECT
        target, image_id,
        count(*) AS attacks,
        CASE WHEN count(robust) = count(*) AND NOT bool_or(error) THEN bool_and(robust) END AS robust,
        -- The attack 'clean' measures this; without it, every attack's own look at the clean image counts alike.
        coalesce(avg(clean_correct::INT) FILTER (attack = 'clean'), avg(clean_correct::INT)) AS clean_share,
        count(robust) FILTER (nine AND NOT error) AS nine,
        count(*) FILTER (nine) AS planned_nine,
        count(*) FILTER (direct) AS planned_direct,
        CASE WHEN bool_and(robust IS NOT NULL AND NOT error) FILTER (nine) THEN bool_and(robust) FILTER (nine) END
            AS nine_robust,
        count(robust) FILTER (audit AND NOT error) AS audits,
        CASE WHEN bool_and(robust IS NOT NULL AND NOT error) FILTER (nine OR audit) THEN
            bool_and(robust) FILTER (nine OR audit)
        END AS audited
    FROM numbered_verdicts
    GROUP BY target, image_id
)
SELECT
    run_id, defense, image_id, attacks, robust, clean_share, nine,
    CASE WHEN
        planned_nine = number_of_nine() OR (defense = 'none' AND planned_direct = number_of_direct())
    THEN
        nine_robust
    END AS nine_robust,
    audits, audited
FROM counted
JOIN (SELECT DISTINCT target, run_id, defense FROM reported_parts) AS targets USING (target);

-- Whether a claim on a defense of a run must hold at every look, as its number of images was not chosen before the first:
-- the run went on until its claims were decided, or it enlarged an earlier run of the defense on the same images. A
-- defense that a run does not name comes from one of its searches.
CREATE OR REPLACE VIEW looks AS
WITH evaluated AS (
    SELECT
        run_id, model_id, dataset, split, norm, epsilon, n, created_at,
        settings ->> '$.until' = 'decided' AS until_decided,
        list_transform(
            TRY_CAST(settings -> '$.defenses' AS VARCHAR[]), lambda label: split_part(label, '=', 1)
        ) AS defenses,
        TRY_CAST(settings -> '$.from_search' AS VARCHAR[]) AS searches
    FROM (SELECT *, CASE WHEN json_valid(config) THEN config::JSON END AS settings FROM stored_runs)
    WHERE verb = 'evaluate'
), labels AS (
    SELECT DISTINCT run_id, defense FROM cells
), enlarged AS (
    SELECT DISTINCT labels.run_id, labels.defense
    FROM labels
    JOIN evaluated AS later USING (run_id)
    JOIN evaluated AS earlier
        ON earlier.n < later.n AND earlier.created_at < later.created_at
        AND earlier.model_id = later.model_id AND earlier.dataset = later.dataset AND earlier.split = later.split
        AND earlier.norm = later.norm AND earlier.epsilon = later.epsilon
    WHERE list_contains(earlier.defenses, labels.defense)
        OR (NOT list_contains(later.defenses, labels.defense) AND list_has_any(earlier.searches, later.searches))
)
SELECT
    run_id, labels.defense,
    coalesce(evaluated.until_decided, false) OR enlarged.defense IS NOT NULL AS anytime
FROM labels
LEFT JOIN evaluated USING (run_id)
LEFT JOIN enlarged USING (run_id, defense);

-- What may be claimed of each defense against none, on the images of both: `gained` are robust under the defense only,
-- `lost` without it only. `test` is 'mcnemar', or 'anytime' where the claim must hold at every look; `holm_p` is the
-- p-value corrected for the number of defenses of the run. NULL until every planned attack has finished on these images.
CREATE OR REPLACE VIEW claims AS
WITH images AS MATERIALIZED (
    SELECT run_id, defense, image_id, robust FROM worst_case_images
), paired AS (
    SELECT
        run_id, defended.defense,
        count(*) AS images,
        count(*) FILTER (defended.robust AND NOT base.robust) AS gained,
        count(*) FILTER (base.robust AND NOT defended.robust) AS lost,
        count(defended.robust) = count(*) AND count(base.robust) = count(*) AS finished,
        CASE WHEN count(base.robust) = count(*) THEN avg(base.robust::INT) END AS none_accuracy
    FROM images AS defended
    JOIN images AS base USING (run_id, image_id)
    WHERE base.defense = 'none' AND defended.defense <> 'none'
    GROUP BY run_id, defended.defense
), tested AS (
    SELECT
        run_id, defense, images,
        CASE WHEN finished THEN gained END AS gained,
        CASE WHEN finished THEN lost END AS lost,
        none_accuracy,
        CASE WHEN anytime THEN 'anytime' ELSE 'mcnemar' END AS test,
        CASE WHEN NOT finished THEN NULL WHEN anytime THEN anytime_p(gained, lost) ELSE mcnemar(gained, lost) END AS p
    FROM paired
    LEFT JOIN looks USING (run_id, defense)
), ranked AS (
    SELECT
        *,
        -- Holm: the smallest p-value times the number of tests, the next one times one less, and so on.
        least(1.0, p * (
            count(p) OVER (PARTITION BY run_id) + 1
            - row_number() OVER (PARTITION BY run_id ORDER BY p NULLS LAST, defense)
        )) AS factored_p
    FROM tested
)
SELECT
    run_id, runs.model, runs.dataset, defense, images, gained, lost, none_accuracy, test, p,
    max(factored_p) OVER (
        PARTITION BY run_id ORDER BY p NULLS LAST, defense ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) + p * 0 AS holm_p,
    CASE
        WHEN p IS NULL THEN NULL
        WHEN p > significance() OR (p = significance() AND test = 'mcnemar') THEN 'undecided'
        WHEN gained > lost THEN 'gain'
        ELSE 'loss'
    END AS claim
FROM ranked
LEFT JOIN stored_runs AS runs USING (run_id);

-- One row for each defense; NULL until every planned attack has finished on every image, and after any error. The gain is
-- that over none on the images of the defense. `claim` and its `test` are those of `claims`; where the test is 'anytime',
-- the interval that holds at every look is `sequence_low` to `sequence_high`.
CREATE OR REPLACE VIEW worst_case AS
WITH counted AS (
    SELECT
        run_id, defense,
        count(*) AS n,
        CASE WHEN count(clean_share) = count(*) THEN avg(clean_share) END AS clean_accuracy,
        CASE WHEN count(robust) = count(*) THEN avg(robust::INT) END AS robust_accuracy
    FROM worst_case_images
    GROUP BY ALL
), planned_attacks AS (
    SELECT run_id, defense, count(*) AS attacks FROM cells GROUP BY run_id, defense
)
SELECT
    run_id, runs.model, runs.dataset, defense, counted.n, attacks, clean_accuracy, robust_accuracy,
    wilson_low(robust_accuracy, counted.n) AS low,
    wilson_high(robust_accuracy, counted.n) AS high,
    robust_accuracy - CASE
        WHEN claims.images = counted.n THEN none_accuracy
        ELSE any_value(robust_accuracy) FILTER (defense = 'none') OVER (PARTITION BY run_id)
    END AS gain,
    wilson_low(clean_accuracy, counted.n) AS clean_low,
    wilson_high(clean_accuracy, counted.n) AS clean_high,
    test, claim,
    sequence_low(robust_accuracy, counted.n) AS sequence_low,
    sequence_high(robust_accuracy, counted.n) AS sequence_high
FROM counted
JOIN planned_attacks USING (run_id, defense)
LEFT JOIN claims USING (run_id, defense)
LEFT JOIN stored_runs AS runs USING (run_id);
