-- Tables that are shown as they are stored.
CREATE OR REPLACE VIEW runs AS SELECT * FROM stored_runs;
CREATE OR REPLACE VIEW run_units AS SELECT * FROM stored_run_units;
CREATE OR REPLACE VIEW adversarials AS SELECT * FROM stored_adversarials;
CREATE OR REPLACE VIEW rankings AS SELECT * FROM stored_rankings;
CREATE OR REPLACE VIEW searches AS SELECT * FROM stored_searches;
CREATE OR REPLACE VIEW refinements AS SELECT * FROM stored_refinements;
CREATE OR REPLACE VIEW failures AS SELECT * FROM stored_failures;
