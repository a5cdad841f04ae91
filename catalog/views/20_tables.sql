-- Tables that are shown as they are stored.
CREATE OR REPLACE VIEW runs AS SELECT * FROM stored_runs;
CREATE OR REPLACE VIEW run_units AS SELECT * FROM stored_run_units;
CREATE OR REPLACE VIEW adversarials AS SELECT * FROM stored_adversarials;
CREATE OR REPLACE VIEW noise AS SELECT * FROM stored_noise;
CREATE OR REPLACE VIEW rankings AS SELECT * FROM stored_rankings;
CREATE OR REPLACE VIEW searches AS SELECT * FROM stored_searches;
CREATE OR REPLACE VIEW refinements AS SELECT * FROM stored_refinements;
CREATE OR REPLACE VIEW failures AS SELECT * FROM stored_failures;
CREATE OR REPLACE VIEW splits AS SELECT * FROM stored_splits;

-- Every lease of a unit to a worker. A driver that runs says so every half minute at least: what one left open and has
-- not confirmed for two minutes is lost.
CREATE OR REPLACE VIEW attempts AS
SELECT * REPLACE (
    coalesce(outcome, CASE WHEN seen_at > now() - INTERVAL 2 MINUTES THEN 'running' ELSE 'lost' END) AS outcome
)
FROM stored_attempts;

-- The units that were planned, each with the parts that it was split into where memory did not suffice for it whole;
-- any other is its own and only part.
-- Once a connection.
CREATE OR REPLACE VIEW unit_parts AS
WITH RECURSIVE splits AS MATERIALIZED (
    SELECT unit_key, part_key FROM stored_splits
), parts(unit_key, part_key) AS (
    SELECT DISTINCT unit_key, unit_key FROM stored_run_units
    UNION
    SELECT parts.unit_key, splits.part_key
    FROM parts
    JOIN splits ON splits.unit_key = parts.part_key
)
SELECT unit_key, part_key FROM parts
ANTI JOIN splits ON splits.unit_key = parts.part_key;
