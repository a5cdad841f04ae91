-- Images that one defense saves and another loses in the worst case over all planned attacks.
SELECT saved.run_id, saved.image_id, saved.defense AS saved_by, lost.defense AS lost_by
FROM worst_case_images AS saved
JOIN worst_case_images AS lost USING (run_id, image_id)
WHERE saved.robust AND NOT lost.robust
ORDER BY saved.run_id, saved.image_id, saved_by, lost_by;
