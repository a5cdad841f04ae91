-- Findings; one about a unit belongs to every run that uses the unit, or the whole that it is a part of.
CREATE OR REPLACE VIEW checks AS
SELECT
    coalesce(checks.run_id, units.run_id) AS run_id,
    checks.model, checks.defense, checks.attack, checks."check", checks.severity, checks.value, checks.message,
    checks.unit_key
FROM stored_checks AS checks
LEFT JOIN (
    SELECT DISTINCT run_id, part_key FROM stored_run_units JOIN unit_parts USING (unit_key)
) AS units ON checks.run_id IS NULL AND checks.unit_key = units.part_key;
