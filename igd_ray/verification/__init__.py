"""Verification: whether what is stored, or shipped, holds when it is computed again."""
