"""What an app still has in hand. One file or one folder per backend, named by its ``kind``."""

SHARED = frozenset({"counting", "extras", "http_endpoint", "ready_check"})
"""Modules here that are no backend: what several probes use, and the readiness check."""
