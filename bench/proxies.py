"""The proxies of the experiment, as deploy scripts steer them: Nginx and HAProxy."""

import csv
import io
import json
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.targets import HTTP, RPC, Doors, Targets
from tests.servers import find
from tests.servers.child import Child, free_ports
from tests.servers.nginx import Nginx

SERVICE = "shop"
SERVICES = {HTTP: SERVICE, RPC: f"{SERVICE}-grpc"}
UPSTREAMS = {HTTP: "shop", RPC: "shop_grpc"}

_NGINX = """
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream shop {{
{http}
    }}
    upstream shop_grpc {{
{grpc}
    }}
    server {{
        listen 127.0.0.1:{rpc_port};
        http2 on;
        location / {{ grpc_pass grpc://shop_grpc; }}
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://shop;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
"""


class ByNginx:
    """Clients know only Nginx, which has an upstream for each door, and its own defaults."""

    name = "Nginx"
    settle = 0.0

    def __init__(self, server: Nginx, doors: Doors, ports: Mapping[str, int]) -> None:
        self.server, self._doors, self._ports = server, doors, ports

    @staticmethod
    def config(doors: Doors, ports: Mapping[str, int]) -> str:
        """Return the http block for these instances, with Nginx's own port for each door."""
        servers = {
            door: "\n".join(f"        server 127.0.0.1:{port};" for port in doors[door].values())
            for door in UPSTREAMS
        }
        return _NGINX.format(port=ports[HTTP], rpc_port=ports[RPC], **servers)

    def targets(self) -> Targets:
        """Return Nginx's own addresses."""
        return {door: [f"127.0.0.1:{port}"] for door, port in self._ports.items()}

    def out(self, name: str) -> None:
        """Mark it down at every door, and reload."""
        self._edit(name, ";", " down;")

    def back(self, name: str) -> None:
        """Take the marks away and reload."""
        self._edit(name, " down;", ";")

    def reload(self) -> None:
        """Ask for a reload, and do not look whether it is done."""
        command = self.server.command("-s", "reload")
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def table(self, name: str) -> str:
        """Return registries that edit the same file, and find the server by its port."""
        commands = {"test": self.server.command("-t", "-q")}
        commands["reload"] = self.server.command("-s", "reload")
        lines = [f"{key} = {json.dumps(value)}" for key, value in commands.items()]
        tables = [
            f'[[instance.registry]]\nkind = "nginx"\nname = "nginx-{door}"\n'
            f'upstream = "{upstream}"\nserver = "127.0.0.1:{self._doors[door][name]}"\n'
            f'config = "{self.server.conf}"'
            for door, upstream in UPSTREAMS.items()
        ]
        return "".join("\n".join([table, *lines, ""]) for table in tables)

    def _edit(self, name: str, old: str, new: str) -> None:
        before = after = self.server.conf.read_text()
        for ports in self._doors.values():
            after = after.replace(f":{ports[name]}{old}", f":{ports[name]}{new}")
        if after != before:
            self.server.conf.write_text(after)
            self.reload()


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
    bind 127.0.0.1:{port}
    default_backend shop
frontend callers
    bind 127.0.0.1:{rpc_port} proto h2
    default_backend shop_grpc
backend shop
{http}
backend shop_grpc
{grpc}
"""


class ByHaproxy:
    """Clients know only HAProxy, which is told at its socket whom to drain."""

    name = "HAProxy"
    settle = 0.0

    def __init__(self, folder: Path, doors: Doors) -> None:
        self._socket = folder / "admin.sock"
        self._ports = dict(zip(UPSTREAMS, free_ports(len(UPSTREAMS)), strict=True))
        more = {HTTP: "", RPC: " proto h2"}
        servers = {
            door: "\n".join(f"    server {n} 127.0.0.1:{p}{more[door]}" for n, p in ports.items())
            for door, ports in doors.items()
        }
        own = {"port": self._ports[HTTP], "rpc_port": self._ports[RPC]}
        config = folder / "haproxy.cfg"
        config.write_text(_HAPROXY.format(folder=folder, **own, **servers))
        self.server = Child([*find("haproxy"), "-db", "-f", str(config)], folder / "haproxy.log")
        self.server.wait_ready(lambda: accepts(self._ports[HTTP]) and self._socket.exists())

    def targets(self) -> Targets:
        """Return HAProxy's own addresses."""
        return {door: [f"127.0.0.1:{port}"] for door, port in self._ports.items()}

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

    def table(self, name: str) -> str:
        """Raise LookupError: no agent runs behind HAProxy in this experiment."""
        raise LookupError(f"no agent drains {name} behind HAProxy in this experiment")

    def _say(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(5.0)
            admin.connect(str(self._socket))
            admin.sendall(f"{command}\n".encode())
            with admin.makefile() as answer:
                return answer.read()


def accepts(port: int) -> bool:
    """Tell whether somebody accepts connections on a loopback port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
