-- What each adaptive attack of an audit found: the images that all attacks before it had left to it, and those of them
-- that it broke or that the defense, asked afresh, got wrong without an attack. NULL after an error; a run that has not
-- finished has no rows.
SELECT run_id, runs.model, defense, attack, attacked, newly_broken
FROM audit_attacks
SEMI JOIN (FROM progress WHERE planned = done + failed + quarantined) AS finished USING (run_id)
LEFT JOIN runs USING (run_id)
ORDER BY run_id, runs.model, defense <> 'none', defense, attack
