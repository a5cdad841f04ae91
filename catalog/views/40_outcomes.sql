-- Every image that a run plans to report on, under each defense and attack.
CREATE OR REPLACE VIEW planned AS
SELECT run_id, unit_key, defense, attack, unnest(image_ids) AS image_id
FROM stored_run_units
WHERE reported AND defense IS NOT NULL AND attack IS NOT NULL;

-- How many outcomes there are of each unit, or part of one, and of which images.
-- Once a connection.
CREATE OR REPLACE VIEW counted_outcomes AS
SELECT unit_key AS part_key, count(*) AS images, bit_xor(hash(image_id)) AS fingerprint
FROM stored_outcomes
GROUP BY unit_key;

-- Every unit that a run reports on, or part of one, under each label that the run gives it; and whether its cell is
-- whole. One attack on one defense in one run is a cell of the run's table. It is whole where there is one outcome of
-- each planned image, and none else: what is asked of its images need not look for those that are missing. A number for
-- each cell, and one for each defense of a run, stand for their names where millions of images are grouped by them; so
-- do the flags for what an attack belongs to.
-- Once a connection.
CREATE OR REPLACE VIEW reported_parts AS
WITH parts AS MATERIALIZED (
    FROM unit_parts
), units AS MATERIALIZED (
    SELECT
        run_id, unit_key, defense, attack,
        coalesce(len(image_ids), 0) AS images,
        fingerprint(image_ids) AS fingerprint
    FROM stored_run_units
    WHERE reported AND defense IS NOT NULL AND attack IS NOT NULL
), measured_units AS (
    SELECT unit_key, sum(images)::BIGINT AS images, bit_xor(fingerprint) AS fingerprint
    FROM counted_outcomes
    JOIN parts USING (part_key)
    GROUP BY unit_key
), cells AS MATERIALIZED (
    SELECT
        run_id, defense, attack,
        sum(units.images)::BIGINT AS images,
        bool_and(
            units.images = coalesce(measured.images, 0) AND units.fingerprint IS NOT DISTINCT FROM measured.fingerprint
        ) AS measured,
        -- Equal in all cells whose images are in the same units; of a list it would be carried with each of its images.
        hash(list_sort(list(units.fingerprint))) AS layout,
        row_number() OVER (ORDER BY run_id, defense, attack) AS cell,
        dense_rank() OVER (ORDER BY run_id, defense) AS target,
        is_nine(attack) AS nine,
        is_direct(attack) AS direct,
        is_audit(attack) AS audit
    FROM units
    LEFT JOIN measured_units AS measured USING (unit_key)
    GROUP BY run_id, defense, attack
), examples AS (
    SELECT layout, min((run_id, defense, attack)) AS example FROM cells WHERE measured GROUP BY layout
), disjoint AS (
    -- No image is in two units, nor twice in one.
    SELECT layout
    FROM (
        SELECT examples.layout, unnest(planned.image_ids) AS image_id
        FROM examples
        JOIN stored_run_units AS planned
            ON planned.run_id = example[1] AND planned.defense = example[2] AND planned.attack = example[3]
            AND planned.reported
    )
    GROUP BY layout
    HAVING count(*) = count(DISTINCT image_id)
)
SELECT DISTINCT
    run_id, unit_key, part_key, defense, attack,
    cells.images AS cell_images,
    measured AND layout IN (SELECT layout FROM disjoint) AS whole,
    cell, target, nine, direct, audit
FROM units
JOIN parts USING (unit_key)
JOIN cells USING (run_id, defense, attack);

-- The attacks on each defense that a run plans to report on.
CREATE OR REPLACE VIEW cells AS
SELECT DISTINCT run_id, defense, attack, whole, cell FROM reported_parts WHERE cell_images > 0;

-- The rows of whole cells, under the labels that the run gives them: a unit that several runs, or several cells of one
-- run's table, use appears once for each.
CREATE OR REPLACE VIEW whole_outcomes AS
SELECT parts.run_id, outcomes.* REPLACE (parts.defense AS defense, parts.attack AS attack)
FROM stored_outcomes AS outcomes
JOIN reported_parts AS parts ON parts.part_key = outcomes.unit_key
WHERE parts.whole;

-- The rows of all other cells likewise, and an error for each image of a unit that failed and that no other attempt or
-- unit of the run has measured since.
CREATE OR REPLACE VIEW other_outcomes AS
WITH parts AS MATERIALIZED (
    FROM reported_parts WHERE NOT whole
), measured AS MATERIALIZED (
    SELECT parts.run_id, outcomes.* REPLACE (parts.defense AS defense, parts.attack AS attack)
    FROM stored_outcomes AS outcomes
    JOIN parts ON parts.part_key = outcomes.unit_key
), failed AS (
    SELECT parts.unit_key, arg_max(host, created_at) AS host, arg_max(attempt, created_at) AS attempt
    FROM stored_failures AS failures
    JOIN (SELECT DISTINCT unit_key, part_key FROM parts) AS parts ON parts.part_key = failures.unit_key
    GROUP BY parts.unit_key
), lost AS (
    SELECT planned.*, failed.host, failed.attempt
    FROM planned
    JOIN failed USING (unit_key)
    SEMI JOIN parts USING (run_id, unit_key, defense, attack)
    ANTI JOIN measured USING (run_id, defense, attack, image_id)
)
FROM measured
UNION ALL BY NAME
SELECT
    lost.run_id, lost.unit_key, runs.model, runs.model_id, runs.dataset, lost.defense, lost.attack, runs.norm,
    runs.epsilon, lost.image_id, 'error' AS status, lost.host, lost.attempt
FROM lost
LEFT JOIN stored_runs AS runs USING (run_id);

-- One row for each image, defense and attack; an error is a row of its own, never a missing one.
CREATE OR REPLACE VIEW outcomes AS
FROM whole_outcomes
-- Where cells are not whole:
UNION ALL FROM other_outcomes;
