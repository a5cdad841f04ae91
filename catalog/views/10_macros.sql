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

-- A number for a list of images that another list has by a chance of 2^-64, whatever the order of either.
CREATE OR REPLACE MACRO fingerprint(image_ids) AS
    list_bit_xor(list_transform(image_ids, lambda image_id: hash(image_id)));
