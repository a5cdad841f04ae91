"""Adaptive attacks: each aims at one defense, from what its parts offer."""
