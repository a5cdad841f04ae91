"""What came before the attacks on a run's model, and what they left behind: searches, rankings, points."""
