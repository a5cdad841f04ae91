-- The 95 % Wilson interval of the share p of n images; NULL without a share or without images.
CREATE OR REPLACE MACRO wilson_center(p, n) AS
    (p + 1.959963984540054 ^ 2 / (2 * n)) / (1 + 1.959963984540054 ^ 2 / n);
CREATE OR REPLACE MACRO wilson_margin(p, n) AS
    1.959963984540054 / (1 + 1.959963984540054 ^ 2 / n)
    * sqrt(p * (1 - p) / n + 1.959963984540054 ^ 2 / (4 * n ^ 2));
-- At p = 0 and p = 1 an end is exactly 0 or 1, which rounding would miss.
CREATE OR REPLACE MACRO wilson_low(p, n) AS
    CASE WHEN p IS NULL OR n = 0 THEN NULL WHEN p = 0 THEN 0.0 ELSE wilson_center(p, n) - wilson_margin(p, n) END;
CREATE OR REPLACE MACRO wilson_high(p, n) AS
    CASE WHEN p IS NULL OR n = 0 THEN NULL WHEN p = 1 THEN 1.0 ELSE wilson_center(p, n) + wilson_margin(p, n) END;
