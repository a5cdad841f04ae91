"""Execution: how units run, in which order, and what is noted of it."""
