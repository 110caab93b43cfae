"""Why an instance is not out of Consul, or not back in it, and what to do: as sentences."""

import json
from collections.abc import Sequence

from deregister_agent.host.addresses import joined
from deregister_agent.registries.consul.operations import CatalogEntry

BLOCKED = (
    "the agent has let go of it and the catalog still lists it: its sync may be blocked, see "
    "'blocked by ACLs' in Consul's log and give the agent itself a token with node:write"
)
IN_CATALOG_ALONE = (
    "the catalog lists it and the agent does not have it, so the agent cannot take it out: it was "
    "registered straight into the catalog, or an earlier withdrawal has not got there, or url "
    "leads to another agent than that of node. The agent takes out what it does not have when it "
    "next compares the two, within minutes; if it stays, deregister it with PUT "
    "/v1/catalog/deregister, and see 'blocked by ACLs' in Consul's log: the agent itself needs a "
    "token with node:write"
)
LATE = "the agent has put it into maintenance and the catalog does not show it yet"
LEFT_TO_APP = "the app has to register itself"
REAPED = (
    "Consul does not have it any more, although it was only in maintenance: somebody has "
    "deregistered it, or Consul has reaped it for being critical (DeregisterCriticalServiceAfter)"
)


def twin(entry: CatalogEntry, own_id: str, not_ours: Sequence[str]) -> str:
    """Say that another entry has the instance's address, and what to do; *not_ours* are IDs."""
    ways = (
        f"set url or service_id to where the app is registered (service_id = "
        f"{json.dumps(entry.id)}), or deregister that one"
        if entry.has_agent
        else without_agent(entry.node, entry.id)
    )
    if entry.id != own_id:
        ways += f"; or write {left_out(entry.id, not_ours)} if that is another app"
    return (
        f"{joined(entry.address, entry.port)} is also registered as {entry.id!r} on node "
        f"{entry.node}, which would still send it work: {ways}"
    )


def without_agent(node: str, service_id: str) -> str:
    """Say what to do about a service on a node that was only written into the catalog."""
    body = json.dumps({"Node": node, "ServiceID": service_id})
    return (
        f"node {node} has no agent, so it was registered straight into the catalog, where nobody "
        f"but its owner takes it out: deregister it with PUT /v1/catalog/deregister and {body}, "
        "and let the app register itself with the agent of its host"
    )


def sidecar_stays(sidecar: str, not_ours: Sequence[str]) -> str:
    """Say that a proxy, which Consul should have taken out with its service, has stayed."""
    return (
        f"its proxy {sidecar!r} is still there and sends it work from the mesh, as it was "
        "registered by itself and not as a part of the service: deregister it, or write "
        f"{left_out(sidecar, not_ours)} if it brings the instance no work"
    )


def left_out(service_id: str, not_ours: Sequence[str]) -> str:
    """Return the line of the configuration that leaves one more ID out."""
    return f"not_ours = {json.dumps([*not_ours, service_id], ensure_ascii=False)}"
