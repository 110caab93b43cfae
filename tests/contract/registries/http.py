"""Admin APIs with an entry for each instance: Nacos, Eureka, NGINX Plus, and one of statuses."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from deregister_agent.model import Instance
from deregister_agent.registries.http.registry import Http, Options, build
from tests.contract.registries import World
from tests.servers.admin import Asked, Eureka, Nacos, NginxPlus, Said, System, as_json, serving

LIMIT = 0.5


@contextmanager
def _world(
    system: System,
    options: dict[str, Any],
    relist: Callable[[], None],
    neighbours: Callable[[], int],
    *,
    counts: bool = True,
) -> Iterator[World]:
    with serving(system) as server:

        def registry(n: int, base: str = server, **more: Any) -> Http:
            table = {"kind": "http"} | options | {"url": base + options["url"]} | more
            if "variables" in table:
                table["variables"] = {k: v.format(n=n) for k, v in table["variables"].items()}
            instance = Instance(f"orders-{n}", "orders", "127.0.0.1", 8000 + n)
            return build(Options.model_validate(table), instance)

        def at(port: int) -> Http:
            return registry(0, f"http://127.0.0.1:{port}", timeout=LIMIT)

        yield World(
            registry=registry(0),
            relist=relist,
            neighbours=neighbours,
            absent=registry(3, absent="withdrawn"),
            silent=at,
            refused=at,
            counts=counts,
            watches=False,
        )


@contextmanager
def nacos(folder: Path, version: int = 2) -> Iterator[World]:
    """Give three instances, with weight and metadata."""
    system = Nacos(version=version)
    for n in range(3):
        system.register("127.0.0.1", 8000 + n, weight=3.5, metadata={"zone": "a&b"})

    def relist() -> None:
        system.entries[0]["enabled"] = True

    def neighbours() -> int:
        return sum(entry["enabled"] for entry in system.entries[1:])

    options = {"preset": "nacos3" if version == 3 else "nacos", "url": "/nacos"}
    yield from _given(_world(system, options, relist, neighbours))


@contextmanager
def eureka(folder: Path) -> Iterator[World]:
    """Give three instances of one app."""
    system = Eureka({f"host:orders:{n}": "UP" for n in range(3)})
    variables = {"app": "ORDERS", "id": "host:orders:{n}"}
    options = {"preset": "eureka", "url": "/eureka", "variables": variables}

    def neighbours() -> int:
        return sum(system.now(f"host:orders:{n}") == "UP" for n in (1, 2))

    def relist() -> None:
        del system.overridden["host:orders:0"]

    yield from _given(_world(system, options, relist, neighbours, counts=False))


@contextmanager
def nginx_plus(folder: Path) -> Iterator[World]:
    """Give an upstream of three servers, whose ids are not their places."""
    servers = [{"id": 7 - n, "server": f"127.0.0.1:{8000 + n}", "down": False} for n in range(3)]
    system = NginxPlus(servers)
    variables = {"upstream": "orders"}
    options = {"preset": "nginx_plus", "url": "/api/9", "variables": variables}

    def relist() -> None:
        servers[0]["down"] = False

    def neighbours() -> int:
        return sum(not server["down"] for server in servers[1:])

    yield from _given(_world(system, options, relist, neighbours))


class Doors:
    """A system of one's own: each name is open, shut, or not there."""

    def __init__(self) -> None:
        self.open = {f"orders-{n}": True for n in range(3)}

    def answer(self, asked: Asked) -> Said:
        name = asked.parts[1]
        if name not in self.open:
            return as_json({}, 404)
        if asked.method == "POST":
            self.open[name] = asked.body["wish"]["open"] == "yes"
        return as_json({}, 200 if self.open[name] else 423)


@contextmanager
def described(folder: Path) -> Iterator[World]:
    """Give a system without a preset, that answers by status."""
    system = Doors()
    path = "/doors/{name}"
    options = {
        "url": "",
        "withdraw": {"path": path, "payload": {"wish": {"open": "no"}}, "expect": (423,)},
        "restore": {"path": path, "payload": {"wish": {"open": "yes"}}},
        "look": {"path": path, "by": "status", "listed": (200,), "withdrawn": (423,)}
        | {"absent": (404,)},
    }

    def neighbours() -> int:
        return system.open["orders-1"] + system.open["orders-2"]

    relist = partial(system.open.__setitem__, "orders-0", True)
    yield from _given(_world(system, options, relist, neighbours, counts=False))


def _given(made: Any) -> Iterator[World]:
    with made as one:
        yield one


WORLDS = {
    "nacos": nacos,
    "nacos3": partial(nacos, version=3),
    "eureka": eureka,
    "nginx_plus": nginx_plus,
    "described": described,
}
