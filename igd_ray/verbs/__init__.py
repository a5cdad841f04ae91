"""Commands of `igd`, one file a verb."""
