"""Records of a run that others read: a leaderboard entry, an evaluation card, verdicts and points in common formats."""
