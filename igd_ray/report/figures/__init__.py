"""Figures as text that stands inside the report: one file for each kind."""
