"""From settings to committed rows: plans, units, workers, executors."""
