"""The doors through which work reaches the instances, and where they are."""

from collections.abc import Mapping, Sequence

HTTP, RPC, QUEUE = "http", "grpc", "queue"
"""The doors through which work reaches the instances."""
Targets = Mapping[str, Sequence[str]]
"""For each door where to send, as ``address:port``."""
