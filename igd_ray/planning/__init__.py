"""Planning: from settings to the units that a run needs."""
