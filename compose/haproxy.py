"""HAProxy as the front, as deploy scripts steer it; it is none of the stack's parts."""

import csv
import io
import socket
from collections.abc import Mapping
from pathlib import Path

from compose.places import GATEWAY, GATEWAY_RPC, NAMES, Place, joined
from compose.processes import accepts
from compose.traffic.targets import HTTP, RPC, Targets
from tests.servers import find
from tests.servers.child import Child

UPSTREAMS = {HTTP: "shop", RPC: "shop_grpc"}

_HAPROXY = """
global
    stats socket {folder}/admin.sock level admin
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
frontend clients
    bind {own_http}
    default_backend shop
frontend callers
    bind {own_grpc} proto h2
    default_backend shop_grpc
backend shop
{http}
backend shop_grpc
{grpc}
"""


class ByHaproxy(Child):
    """Clients know only HAProxy, which is told at its socket whom to drain."""

    def __init__(self, place: Place) -> None:
        folder = Path(place.root)
        self._socket = folder / "admin.sock"
        at = place.at("gateway")
        self._own = {HTTP: (at, GATEWAY), RPC: (at, GATEWAY_RPC)}
        config = folder / "haproxy.cfg"
        own = {f"own_{door}": joined(listen) for door, listen in self._own.items()}
        config.write_text(_HAPROXY.format(folder=folder, **own, **_servers(place)))
        super().__init__([*find("haproxy"), "-db", "-f", str(config)], folder / "haproxy.log")
        self.wait_ready(lambda: accepts(self._own[HTTP]) and self._socket.exists())

    def targets(self) -> Targets:
        """Return HAProxy's own addresses."""
        return {door: [joined(listen)] for door, listen in self._own.items()}

    def out(self, name: str) -> None:
        """Set it to drain."""
        for upstream in UPSTREAMS.values():
            self._say(f"set server {upstream}/{name} state drain")

    def back(self, name: str) -> None:
        """Set it to ready."""
        for upstream in UPSTREAMS.values():
            self._say(f"set server {upstream}/{name} state ready")

    def sessions(self, name: str) -> int:
        """Return ``scur``: the sessions that HAProxy has with it now."""
        rows = csv.DictReader(io.StringIO(self._say("show stat").lstrip("# ")))
        return sum(int(row["scur"]) for row in rows if row["svname"] == name)

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(5.0)
            admin.connect(str(self._socket))
            admin.sendall(f"{command}\n".encode())
            with admin.makefile() as answer:
                return answer.read()


def _servers(place: Place) -> Mapping[str, str]:
    """Return the lines of each backend."""
    doors = {HTTP: (place.app, ""), RPC: (place.rpc, " proto h2")}
    return {
        door: "\n".join(f"    server {name} {joined(at(name))}{more}" for name in NAMES)
        for door, (at, more) in doors.items()
    }
