"""Whose a ``down`` is: this agent's, which it may lift, or somebody else's, which it may not."""

from collections.abc import Sequence

from deregister_agent.model import Snapshot
from deregister_agent.registries.nginx import proof_record
from deregister_agent.registries.nginx.conf import ServerDirective
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.proof import ServerLook
from deregister_agent.registries.nginx.site import Site, Wish


def out_by(site: Site, found: ServerLook) -> str:
    """
    Say where the server is down by another hand; empty where it is not, or the agent did it.

    The record tells. Where it is lost, a ``down`` counts as another's.
    """
    servers = site.servers(found.conf)
    if found.listed or not servers or site.key in found.record.ours:
        return ""
    place = found.conf.place(servers[0])
    return f'"down" in {place}, by another hand as far as the agent\'s record tells'


def up_again(site: Site, servers: Sequence[ServerDirective], snapshot: Snapshot | None) -> Wish:
    """Return which directives restore() is to bring up again. Raises NginxError."""
    was = snapshot.get("down") if snapshot is not None else None
    if not isinstance(was, list):
        return _ours_up_again(site, servers)
    if not any(was):
        return Wish(down=False)
    if len(was) != len(servers):
        raise NginxError(
            f"upstream {site.upstream} now has {len(servers)} directives for "
            f"{site.server.text}, not {len(was)}, and some were down before: bring up by hand "
            "those that should be"
        )
    return Wish(tuple(i for i, down in enumerate(was) if not down), down=False)


def _ours_up_again(site: Site, servers: Sequence[ServerDirective]) -> Wish:
    """Return the wish that lifts what the record proves to be ours, and nothing else."""
    ours = proof_record.load(site.record).ours.get(site.key, ())
    which = [i for i, mine in enumerate(ours) if mine] if len(ours) == len(servers) else []
    if not which and all(server.down for server in servers):
        raise NginxError(
            f"upstream {site.upstream} has {site.server.text} down by another hand, as far as "
            'the agent\'s record tells: take "down" away and reload when it may go on'
        )
    return Wish(tuple(which), down=False)
