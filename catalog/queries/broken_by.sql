-- Which attacks broke the same images: one row for each set of attacks that broke an image under a defense, with the
-- number of such images. Of `unknown` of them some other attack has no verdict of its own: it is missing, failed, or
-- skipped what another attack had broken before, and might belong to the set, too.
SELECT
    run_id, defense,
    array_to_string(attacks, ' + ') AS broken_by,
    count(*) AS images,
    count(*) FILTER (NOT known) AS unknown
FROM broken_by
WHERE len(attacks) > 0
GROUP BY run_id, defense, attacks
ORDER BY run_id, defense <> 'none', defense, images DESC, broken_by
