"""The doors through which work reaches the instances, and where they are."""

from collections.abc import Mapping, Sequence

HTTP, RPC, QUEUE = "http", "grpc", "queue"
"""The doors through which work reaches the instances."""
Ports = Mapping[str, int]
"""The port of each instance, by its name."""
Doors = Mapping[str, Ports]
"""The ports of the instances' doors that a front opens: HTTP, and RPC if there is one."""
Targets = Mapping[str, Sequence[str]]
"""For each door where to send, as ``address:port``."""


def by_door(told: Targets | Sequence[str]) -> Targets:
    """Return targets by door; a plain list is for HTTP alone."""
    return told if isinstance(told, Mapping) else {HTTP: told}
