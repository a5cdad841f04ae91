-- How fast a run's units are done, how long the rest will take at that pace, and what its workers cost. A unit that
-- several runs share counts for each. Prices are of a worker, an hour, from the run's settings.
CREATE OR REPLACE VIEW pace AS
WITH worked AS (
    SELECT
        units.run_id, session, outcome,
        coalesce(ended_at, seen_at) AS until,
        started_at
    FROM (SELECT DISTINCT run_id, unit_key FROM stored_run_units) AS units
    JOIN unit_parts AS parts USING (unit_key)
    JOIN attempts ON attempts.unit_key = parts.part_key
), sessions AS (
    SELECT
        run_id, session,
        count(*) FILTER (outcome = 'done') AS done,
        count(*) AS attempts,
        epoch(max(until)) - epoch(min(started_at)) AS seconds,
        sum(epoch(until) - epoch(started_at)) AS worker_seconds
    FROM worked
    GROUP BY run_id, session
), runs_so_far AS (
    SELECT
        run_id,
        sum(attempts) AS attempts,
        60 * sum(done) / nullif(sum(seconds), 0) AS units_per_minute,
        sum(worker_seconds) / 3600 AS worker_hours
    FROM sessions
    GROUP BY run_id
)
SELECT
    run_id, attempts::BIGINT AS attempts, units_per_minute,
    (planned - done - failed - quarantined) / nullif(units_per_minute, 0) AS minutes_left,
    worker_hours,
    worker_hours * (config ->> '$.price')::DOUBLE AS cost
FROM runs_so_far
JOIN progress USING (run_id)
JOIN stored_runs USING (run_id);
