"""How to learn what an app still has in hand: one file or one folder per kind."""

SHARED = frozenset({"counting", "extras", "http_endpoint", "ready_check"})
"""Modules here that are no kind of probe: what several probes share, and the readiness check."""
