"""Who is told. One file or one folder per backend, named by its ``kind``."""

SHARED = frozenset({"event_json"})
"""Modules here that are no backend: what several notifiers use."""
