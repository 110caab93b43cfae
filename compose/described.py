"""
The stack, described once: what runs where, with which command and which files.

``compose.render`` makes ``compose.yaml`` and the files beside it of this, for containers;
``compose.local`` starts the same as plain processes on loopback.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SERVICE = "shop"
HOSTS = (1, 2, 3)
NAMES = tuple(f"shop-{n}" for n in HOSTS)
IN_FLIGHT = ("requests", "websockets", "tasks", "messages")
SETTLE = 1.5  # seconds: a client asks Consul and etcd once a second
APP, OWN, AGENT, GATEWAY, PROMETHEUS = 8080, 9001, 8650, 8080, 9090  # ports


@dataclass(frozen=True, slots=True)
class Place:
    """Where the stack runs: its addresses begin with *net*, its files lie below *root*."""

    net: str
    root: str = ""
    broker: str = ""  # address and port, where it is not that of the stack's own

    def at(self, name: str) -> str:
        """Return the address of a service."""
        return f"{self.net}.{NUMBERS[name]}"

    def url(self, name: str, port: int) -> str:
        """Return where that service answers HTTP."""
        return f"http://{self.at(name)}:{port}"

    def file(self, path: str, of: str = "") -> str:
        """Return where *path* is; *of* names the service that has it for itself."""
        if not self.root:
            return path
        return f"{self.root}/{of}{path}" if of else f"{self.root}{path}"


NUMBERS = {
    "consul-server": 2,
    "etcd": 3,
    "gateway": 4,
    "gateway-agent": 5,
    "redis": 6,
    "broker": 7,
    "prometheus": 8,
    "load": 9,
    **{f"host-{n}": 10 + n for n in HOSTS},
    **{f"shop-{n}": 10 + n for n in HOSTS},
}
CONTAINERS = Place("172.28.8")


# What an agent is told.


def table(name: str, values: Mapping[str, Any]) -> str:
    """Return a TOML table; a JSON string, number or list is TOML as well."""
    lines = [f"{key} = {_toml(value)}" for key, value in values.items()]
    return "\n".join([name, *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def page(place: tuple[str, int]) -> str:
    """Return where an app tells what it has in hand."""
    return f"http://{place[0]}:{place[1]}/-/work"


def probe(url: str, kinds: Sequence[str] = IN_FLIGHT) -> str:
    """Return the probe that reads the app's own page."""
    return table(
        "[[instance.probe]]",
        {
            "kind": "http_json",
            "url": url,
            "in_flight": {kind: f"/in_flight/{kind}" for kind in kinds},
            "started": "/started",
            "mark": "/process/mark",
            "wait_parameter": "wait",
        },
    )


def instance(name: str, place: tuple[str, int], *tables: str, **more: Any) -> str:
    """Return an instance at that address and port, with the tables of its backends."""
    address, port = place
    head = {"name": name, "service": SERVICE, "address": address, "port": port, **more}
    return "\n".join([table("[[instance]]", head), *tables])


def ready(place: tuple[str, int]) -> str:
    """Return the check that an app has to pass before it is put back."""
    url = f"http://{place[0]}:{place[1]}/healthz"
    return table("[[instance.ready]]", {"url": url, "every": 0.1})


# What runs.


def shop(place: tuple[str, int], redis: tuple[str, int], ledger: str, *more: str) -> list[str]:
    """Return the command line of an app."""
    listen, counts = (f"{address}:{port}" for address, port in (place, redis))
    return ["python", "-m", "bench.shop", listen, "--redis", counts, "--ledger", ledger, *more]
