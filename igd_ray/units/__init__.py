"""Units of work: what is computed, each with a key, the rows it commits, and what it needs."""
