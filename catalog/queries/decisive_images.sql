-- The images that decide whether a defense gains or loses: those that are robust under it only (gained), or under the
-- undefended model only (lost), in the worst case over all planned attacks; and the attacks that broke them where they
-- are not robust, as far as each attack has a verdict of its own. Images on which either is not known have no row.
SELECT
    run_id, defended.defense, image_id,
    CASE WHEN defended.robust THEN 'gained' ELSE 'lost' END AS change,
    coalesce(nullif(array_to_string(broken_by.attacks, ' + '), ''), 'wrong without an attack') AS broken_by
FROM worst_case_images AS defended
JOIN worst_case_images AS base USING (run_id, image_id)
JOIN broken_by USING (run_id, image_id)
WHERE base.defense = 'none' AND defended.defense <> 'none' AND defended.robust <> base.robust
    AND broken_by.defense = CASE WHEN defended.robust THEN 'none' ELSE defended.defense END
ORDER BY run_id, defended.defense, change, image_id
