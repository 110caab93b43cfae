"""Nginx for the shared tests: the operator's own file edited, and a file of the agent's own."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.contract.registries import World
from tests.servers.child import wait_until
from tests.servers.nginx import VERSIONS, Nginx, nginx


@contextmanager
def _ports() -> Iterator[tuple[int, ...]]:
    """Give three ports on which somebody listens: where nobody does, there is no other server."""
    with ExitStack() as stack:
        apps = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        yield tuple(app.getsockname()[1] for app in apps)


@contextmanager
def edited(folder: Path) -> Iterator[World]:
    """Give an upstream that the operator has written."""
    with _ports() as ports:
        servers = "".join(f"server 127.0.0.1:{port}; " for port in ports)
        with nginx(VERSIONS[0], folder, f"upstream app {{ {servers} }}") as server:
            yield _world(server, ports, server.conf, server.conf)


@contextmanager
def owned(folder: Path) -> Iterator[World]:
    """Give an upstream of included files, one of them the agent's own."""
    servers = folder / "servers"
    servers.mkdir()
    others = folder / "others.conf"
    http = f"upstream app {{ include {servers}/*.conf; include {others}; }}"
    with _ports() as ports:
        (servers / "one.conf").write_text(f"server 127.0.0.1:{ports[0]};\n")
        others.write_text("".join(f"server 127.0.0.1:{port};\n" for port in ports[1:]))
        with nginx(VERSIONS[1], folder, http) as server:
            yield _world(server, ports, servers / "one.conf", others, file=servers / "one.conf")


def _world(server: Nginx, ports: Sequence[int], ours: Path, others: Path, **options: Any) -> World:
    def relist() -> None:
        new = ours.with_name("new")  # half a file would be an error, which is right
        new.write_text(ours.read_text().replace(" down;", ";"))
        new.replace(ours)
        before = set(server.workers())
        subprocess.run(server.command("-s", "reload"), check=True)
        wait_until(lambda: not before & set(server.workers()), "the old workers have gone")

    def add_other() -> str:
        whole = server.conf.read_text()
        other = f"http {{\nupstream other {{ server 127.0.0.1:{ports[0]}; }}\n"
        server.conf.write_text(whole.replace("http {", other, 1))
        return "other"

    def neighbours() -> int:
        return sum(others.read_text().count(f":{port};") for port in ports[1:])

    return World(
        registry=server.registry(ports[0], **options),
        relist=relist,
        neighbours=neighbours,
        absent=server.registry(9, absent="withdrawn"),
        add_other=add_other,
        leaving_out=lambda name: server.registry(ports[0], not_ours=[name], **options),
    )


WORLDS = {"edited": edited, "owned": owned}
