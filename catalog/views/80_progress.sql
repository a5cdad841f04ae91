-- The state of each unit of a run: one that is reported on is done with its outcomes, any other with whatever it yields.
CREATE OR REPLACE VIEW unit_states AS
WITH yielded AS (
    SELECT unit_key FROM stored_arrays
    UNION SELECT unit_key FROM stored_adversarials
    UNION SELECT unit_key FROM stored_checks WHERE unit_key IS NOT NULL
    UNION SELECT ranking_id FROM stored_rankings
    UNION SELECT search_id FROM stored_searches
), units AS (
    SELECT
        run_id, unit_key, any_value(kind) AS kind, any_value(defense) AS defense, any_value(attack) AS attack,
        unit_key IN (SELECT unit_key FROM stored_outcomes)
            OR (NOT bool_or(reported AND attack IS NOT NULL) AND unit_key IN (SELECT unit_key FROM yielded)) AS done
    FROM stored_run_units
    GROUP BY run_id, unit_key
), stumbles AS (
    -- Not by the attempt: every run of a command counts its own from one.
    SELECT unit_key, count(*) AS failures, arg_max(error, created_at) AS error FROM stored_failures GROUP BY unit_key
)
SELECT
    units.* EXCLUDE (done),
    CASE WHEN done THEN 'done' WHEN failures IS NOT NULL THEN 'failed' ELSE 'planned' END AS state,
    coalesce(failures, 0) AS failures,
    error
FROM units
LEFT JOIN stumbles USING (unit_key);

-- How far each run is.
CREATE OR REPLACE VIEW progress AS
SELECT
    run_id,
    count(*) AS planned,
    count(*) FILTER (state = 'done') AS done,
    count(*) FILTER (state = 'failed') AS failed
FROM unit_states
GROUP BY run_id;
