"""Units of analyses: what they measure are rows of `measurements`."""
