"""Evaluate interpretability-guided test-time adversarial defenses at scale."""
