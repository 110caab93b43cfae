"""The proxies of the experiment, as deploy scripts steer them: Nginx and HAProxy."""

import csv
import io
import json
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers import find
from tests.servers.child import Child, free_ports
from tests.servers.nginx import Nginx

Ports = Mapping[str, int]
"""The port of each instance, by its name."""

_NGINX = """
    map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
    upstream shop {{
{servers}
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
    """Clients know only Nginx, which has an upstream with all instances and its own defaults."""

    name = "Nginx"
    settle = 0.0

    def __init__(self, server: Nginx, ports: Ports, port: int) -> None:
        self.server, self._ports, self._port = server, ports, port

    @staticmethod
    def config(ports: Ports, port: int) -> str:
        """Return the http block for these instances."""
        servers = "\n".join(f"        server 127.0.0.1:{one};" for one in ports.values())
        return _NGINX.format(servers=servers, port=port)

    def targets(self) -> Sequence[str]:
        """Return Nginx's own address."""
        return [f"127.0.0.1:{self._port}"]

    def out(self, name: str) -> None:
        """Mark it down and reload."""
        self._edit(f":{self._ports[name]};", f":{self._ports[name]} down;")

    def back(self, name: str) -> None:
        """Take the mark away and reload."""
        self._edit(f":{self._ports[name]} down;", f":{self._ports[name]};")

    def reload(self) -> None:
        """Ask for a reload, and do not look whether it is done."""
        command = self.server.command("-s", "reload")
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def table(self, name: str) -> str:
        """Return a registry that edits the same file, and finds the server by its port."""
        del name
        commands = {"test": self.server.command("-t", "-q")}
        commands["reload"] = self.server.command("-s", "reload")
        lines = [f"{key} = {json.dumps(value)}" for key, value in commands.items()]
        head = ['[[instance.registry]]\nkind = "nginx"\nupstream = "shop"']
        return "\n".join([*head, f'config = "{self.server.conf}"', *lines, ""])

    def _edit(self, old: str, new: str) -> None:
        text = self.server.conf.read_text()
        if old in text:
            self.server.conf.write_text(text.replace(old, new))
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
backend shop
{servers}
"""


class ByHaproxy:
    """Clients know only HAProxy, which is told at its socket whom to drain."""

    name = "HAProxy"
    settle = 0.0

    def __init__(self, folder: Path, ports: Ports) -> None:
        self._socket, self._port = folder / "admin.sock", free_ports(1)[0]
        servers = "\n".join(f"    server {n} 127.0.0.1:{p}" for n, p in ports.items())
        config = folder / "haproxy.cfg"
        config.write_text(_HAPROXY.format(folder=folder, port=self._port, servers=servers))
        self.server = Child([*find("haproxy"), "-db", "-f", str(config)], folder / "haproxy.log")
        self.server.wait_ready(lambda: accepts(self._port) and self._socket.exists())

    def targets(self) -> Sequence[str]:
        """Return HAProxy's own address."""
        return [f"127.0.0.1:{self._port}"]

    def out(self, name: str) -> None:
        """Set it to drain."""
        self._say(f"set server shop/{name} state drain")

    def back(self, name: str) -> None:
        """Set it to ready."""
        self._say(f"set server shop/{name} state ready")

    def sessions(self, name: str) -> int:
        """Return ``scur``: the sessions that HAProxy has with it now."""
        rows = csv.DictReader(io.StringIO(self._say("show stat").lstrip("# ")))
        return next(int(row["scur"]) for row in rows if row["svname"] == name)

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
