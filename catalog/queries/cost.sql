-- What each attack on each defense cost: passes, queries and seconds, in all and for each planned image.
SELECT
    run_id, defense, attack, n, forwards, backwards, queries,
    round(seconds, 1) AS seconds,
    round((coalesce(forwards, 0) + coalesce(backwards, 0)) / n, 1) AS passes_per_image,
    round(seconds / n, 3) AS seconds_per_image
FROM accuracy
ORDER BY run_id, seconds DESC NULLS LAST, defense, attack;
