-- Every image that a run plans to report on, under each defense and attack.
CREATE OR REPLACE VIEW planned AS
SELECT run_id, unit_key, defense, attack, unnest(image_ids) AS image_id
FROM stored_run_units
WHERE reported AND defense IS NOT NULL AND attack IS NOT NULL;

-- The rows that a run reports, under the labels that the run gives them: a unit that several runs, or several cells
-- of one run's table, use appears once for each.
CREATE OR REPLACE VIEW measured AS
SELECT units.run_id, outcomes.* REPLACE (units.defense AS defense, units.attack AS attack)
FROM stored_outcomes AS outcomes
JOIN unit_parts AS parts ON parts.part_key = outcomes.unit_key
JOIN (
    SELECT DISTINCT run_id, unit_key, defense, attack FROM stored_run_units
    WHERE reported AND defense IS NOT NULL AND attack IS NOT NULL
) AS units ON units.unit_key = parts.unit_key;

-- The images of units that failed and that no other attempt or unit of the run has measured since.
CREATE OR REPLACE VIEW lost AS
SELECT planned.*, failures.host, failures.attempt
FROM planned
JOIN (
    SELECT parts.unit_key, arg_max(host, created_at) AS host, arg_max(attempt, created_at) AS attempt
    FROM stored_failures AS failed
    JOIN unit_parts AS parts ON parts.part_key = failed.unit_key
    GROUP BY parts.unit_key
) AS failures USING (unit_key)
ANTI JOIN measured USING (run_id, defense, attack, image_id);

-- One row for each image, defense and attack; an error is a row of its own, never a missing one.
CREATE OR REPLACE VIEW outcomes AS
SELECT * FROM measured
UNION ALL BY NAME
SELECT
    lost.run_id, lost.unit_key, runs.model, runs.model_id, runs.dataset, lost.defense, lost.attack, runs.norm,
    runs.epsilon, lost.image_id, 'error' AS status, lost.host, lost.attempt
FROM lost
LEFT JOIN stored_runs AS runs USING (run_id);
