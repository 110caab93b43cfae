"""What sends work to instances. One file or one folder per backend, named by its ``kind``."""

SHARED: frozenset[str] = frozenset()
"""Modules here that are no backend."""
