-- How often noise alone makes each random defense wrong, one row for each: clean images that it gets right at first, asked
-- `draws` times more. `rate` is the share of wrong answers, `failed_images` are those with one at least. NULL until every
-- planned image has been asked, and without an image that is right. A defense without randomness has no row.
CREATE OR REPLACE VIEW noise_failures AS
WITH asked AS (
    SELECT DISTINCT run_id, defense, unit_key, unnest(image_ids) AS image_id
    FROM stored_run_units
    WHERE kind = 'noise'
), answers AS (
    SELECT parts.unit_key, noise.image_id, noise.clean_correct, noise.draws, noise.failures
    FROM stored_noise AS noise
    JOIN unit_parts AS parts ON parts.part_key = noise.unit_key
), counted AS (
    SELECT
        run_id, defense,
        count(*) AS images,
        count(clean_correct) = count(*) AS finished,
        count(*) FILTER (clean_correct) AS n,
        max(draws) AS draws,
        sum(failures) / sum(draws) AS rate,
        count(*) FILTER (failures > 0) AS failed_images
    FROM asked
    LEFT JOIN answers USING (unit_key, image_id)
    GROUP BY ALL
)
SELECT
    run_id, runs.model, runs.dataset, defense, images,
    CASE WHEN finished THEN counted.n END AS n,
    CASE WHEN finished THEN draws END AS draws,
    CASE WHEN finished THEN rate END AS rate,
    CASE WHEN finished THEN failed_images END AS failed_images
FROM counted
LEFT JOIN stored_runs AS runs USING (run_id);
