"""The network namespace of this agent: which it is, and whether it is an orphan by now."""

import socket
from pathlib import Path
from typing import NamedTuple

LOOPBACK = "lo"


class Network(NamedTuple):
    """A network namespace at one moment: its name, and the links by which it is reached."""

    space: str  # man 7 network_namespaces
    links: frozenset[tuple[int, str]]

    def lost(self, now: "Network") -> str:
        """
        Say why what was seen in this network says nothing *now*; empty where it still does.

        Where a container is started anew, it gets another namespace. Whoever had joined the
        old one stays in it: without its links, and with a port on which nobody will ever
        listen again.
        """
        if now.space != self.space:
            return "the agent is in another network namespace than when it saw the app"
        if self.links and not self.links & now.links:
            names = ", ".join(sorted(name for _, name in self.links))
            return (
                f"this network has lost its links ({names}) since the app was seen in it, as it "
                "does when the container that it belongs to is started anew: start the agent "
                "anew as well, so that it joins the new one"
            )
        return ""


def network() -> Network:
    """Return the network that this thread is in. Reads only; raises OSError where it may not."""
    links = frozenset(link for link in socket.if_nameindex() if link[1] != LOOPBACK)
    return Network(str(Path("/proc/thread-self/ns/net").readlink()), links)
