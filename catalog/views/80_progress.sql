-- The state of each unit of a run: one that is reported on is done with its outcomes, any other with whatever it
-- yields; a unit that was split is done with all of its parts.
-- Once a connection.
CREATE OR REPLACE VIEW unit_states AS
WITH yielded AS (
    SELECT unit_key FROM stored_arrays
    UNION SELECT unit_key FROM stored_adversarials
    UNION SELECT unit_key FROM stored_noise
    UNION SELECT unit_key FROM stored_measurements
    UNION SELECT unit_key FROM stored_checks WHERE unit_key IS NOT NULL
    UNION SELECT ranking_id FROM stored_rankings
    UNION SELECT search_id FROM stored_searches
), planned_units AS (
    SELECT
        run_id, unit_key, any_value(kind) AS kind, any_value(defense) AS defense, any_value(attack) AS attack,
        bool_or(reported AND attack IS NOT NULL) AS reported
    FROM stored_run_units
    GROUP BY run_id, unit_key
), units AS (
    SELECT
        run_id, planned_units.unit_key, any_value(kind) AS kind, any_value(defense) AS defense,
        any_value(attack) AS attack,
        bool_and(
            part_key IN (SELECT part_key FROM counted_outcomes)
            OR (NOT reported AND part_key IN (SELECT unit_key FROM yielded))
        ) AS done
    FROM planned_units
    JOIN unit_parts ON unit_parts.unit_key = planned_units.unit_key
    GROUP BY run_id, planned_units.unit_key
), stumbles AS (
    SELECT parts.unit_key, count(*) AS failures, arg_max(error, created_at) AS error
    FROM stored_failures AS failed
    JOIN unit_parts AS parts ON parts.part_key = failed.unit_key
    GROUP BY parts.unit_key
), tries AS (
    SELECT parts.unit_key, bool_or(outcome = 'running') AS running
    FROM attempts
    JOIN unit_parts AS parts ON parts.part_key = attempts.unit_key
    GROUP BY parts.unit_key
)
SELECT
    units.* EXCLUDE (done),
    CASE
        WHEN done THEN 'done'
        WHEN running THEN 'running'
        -- Given up because its workers died, hung or were lost, not because of an error of its own.
        WHEN error LIKE 'quarantined: %' THEN 'quarantined'
        WHEN failures IS NOT NULL THEN 'failed'
        ELSE 'planned'
    END AS state,
    coalesce(failures, 0) AS failures,
    error
FROM units
LEFT JOIN stumbles USING (unit_key)
LEFT JOIN tries USING (unit_key);

-- How far each run is.
CREATE OR REPLACE VIEW progress AS
SELECT
    run_id,
    count(*) AS planned,
    count(*) FILTER (state = 'done') AS done,
    count(*) FILTER (state = 'running') AS running,
    count(*) FILTER (state = 'quarantined') AS quarantined,
    count(*) FILTER (state = 'failed') AS failed
FROM unit_states
GROUP BY run_id;
