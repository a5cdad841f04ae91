-- The 95 % Wilson interval of the share p of n images; NULL without a share or without images.
CREATE OR REPLACE MACRO wilson_center(p, n) AS
    (p + z_95() ^ 2 / (2 * n)) / (1 + z_95() ^ 2 / n);
CREATE OR REPLACE MACRO wilson_margin(p, n) AS
    z_95() / (1 + z_95() ^ 2 / n) * sqrt(p * (1 - p) / n + z_95() ^ 2 / (4 * n ^ 2));
-- At p = 0 and p = 1 an end is exactly 0 or 1, which rounding would miss.
CREATE OR REPLACE MACRO wilson_low(p, n) AS
    CASE WHEN p IS NULL OR n = 0 THEN NULL WHEN p = 0 THEN 0.0 ELSE wilson_center(p, n) - wilson_margin(p, n) END;
CREATE OR REPLACE MACRO wilson_high(p, n) AS
    CASE WHEN p IS NULL OR n = 0 THEN NULL WHEN p = 1 THEN 1.0 ELSE wilson_center(p, n) + wilson_margin(p, n) END;

-- The exact p-value of McNemar's test: gains against losses of a defense over none, of a number of images chosen before.
CREATE OR REPLACE MACRO mcnemar(gained, lost) AS
    least(1.0, round(2 * list_sum(list_transform(range(least(gained, lost) + 1), lambda heads:
        exp(lgamma(gained + lost + 1) - lgamma(heads + 1) - lgamma(gained + lost - heads + 1) - (gained + lost) * ln(2))
    )), 12));

-- ln(B(s+1/2, f+1/2) / B(1/2, 1/2)): the likelihood of s successes and f failures, averaged with Beta(1/2, 1/2) weights.
CREATE OR REPLACE MACRO log_average(s, f) AS
    lgamma(s + 0.5) + lgamma(f + 0.5) - lgamma(s + f + 1) - ln(pi());

-- 1/E of a mixture martingale, at most 1: a p-value for gains against losses that is valid at every look (Robbins 1970).
CREATE OR REPLACE MACRO anytime_p(gained, lost) AS
    least(1.0, exp(-(gained + lost) * ln(2) - log_average(gained, lost)));

-- The 95 % confidence sequence of the share p of n images, which holds at all looks together: the shares whose likelihood
-- is more than a twentieth of the average. Bisection finds its ends. NULL without a share or without images.
CREATE OR REPLACE MACRO sequence_end(s, f) AS
    CASE WHEN s = 0 THEN 0.0 ELSE
        list_reduce(list_prepend([0.0::DOUBLE, s / (s + f)], list_transform(range(60), lambda step: [0.0::DOUBLE, 0.0::DOUBLE])), lambda ends, step:
            CASE WHEN s * ln(list_avg(ends)) + f * ln(1 - list_avg(ends)) < log_average(s, f) + ln(significance())
            THEN [list_avg(ends), ends[2]] ELSE [ends[1], list_avg(ends)] END
        )[1]
    END;
CREATE OR REPLACE MACRO sequence_low(p, n) AS
    CASE WHEN p IS NULL OR n = 0 THEN NULL ELSE sequence_end(round(p * n), n - round(p * n)) END;
CREATE OR REPLACE MACRO sequence_high(p, n) AS
    CASE WHEN p IS NULL OR n = 0 THEN NULL ELSE 1 - sequence_end(n - round(p * n), round(p * n)) END;

-- A number for a list of images that another list has by a chance of 2^-64, whatever the order of either.
CREATE OR REPLACE MACRO fingerprint(image_ids) AS
    list_bit_xor(list_transform(image_ids, lambda image_id: hash(image_id)));
