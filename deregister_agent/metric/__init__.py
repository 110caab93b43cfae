"""Metrics of other programs: their text, and what of it is meant."""
