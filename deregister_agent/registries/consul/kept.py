"""What is kept of a service in order to register it again, and what that leaves out."""

from collections.abc import Mapping

from deregister_agent.model import Snapshot
from deregister_agent.registries.consul.api import Talk

WRITABLE = (
    *("ID", "Tags", "Meta", "Address", "Port", "Ports", "SocketPath", "TaggedAddresses"),
    *("Weights", "EnableTagOverride", "Kind", "Proxy", "Connect", "Locality"),
)
"""What of a service as read can be written back."""


def taken(talk: Talk) -> Snapshot | None:
    """Return the service as the agent has it, and the names of what hangs on it; None without."""
    service = talk.held()
    if service is None:
        return None
    checks = talk.checks()
    kept = {key: service[key] for key in WRITABLE if service.get(key)}
    return {
        "service": {"Name": service["Service"], **kept},
        "maintenance": checks.pop(talk.place.maintenance, None),
        "checks": sorted(checks),
        "sidecars": talk.sidecars(),
    }


def lost(snapshot: Mapping[str, object]) -> str:
    """Say what does not come back when the service is registered as it was kept."""
    parts = []
    for what, why in (
        ("checks", "as Consul does not give them out"),
        ("sidecars", "which Consul deregisters with it"),
    ):
        names = snapshot.get(what)
        if isinstance(names, list) and names:
            parts.append(f"its {what} ({', '.join(map(str, names))}), {why}")
    return ", nor ".join(parts)
