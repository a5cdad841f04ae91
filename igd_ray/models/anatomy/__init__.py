"""Where a model's neurons are, and how it is cut there."""
