"""Prometheus target files: their format, and edits that keep every other byte."""
