"""The agents' configurations, table by table."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from compose.places import AGENT, CONSUL, ETCD, NAMES, Place

SERVICE = "shop"
IN_FLIGHT = ("requests", "websockets", "tasks", "messages")
SETTLE = 1.5  # seconds: clients ask Consul and etcd once a second
GATEWAY_TOKEN = "/certificates/gateway.token"  # noqa: S105 - where it lies


def table(name: str, values: Mapping[str, Any]) -> str:
    """Return a TOML table; a JSON string, number or list is TOML as well."""
    return "\n".join([name, *(f"{key} = {_toml(value)}" for key, value in values.items()), ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def instance(name: str, place: tuple[str, int], *tables: str, **more: Any) -> str:
    """Return an instance at that address and port, with the tables of its backends."""
    address, port = place
    head = {"name": name, "service": SERVICE, "address": address, "port": port, **more}
    return "\n".join([table("[[instance]]", head), *tables])


def ready(place: tuple[str, int]) -> str:
    """Return the check that an app has to pass before it is put back."""
    url = f"http://{place[0]}:{place[1]}/healthz"
    return table("[[instance.ready]]", {"url": url, "every": 0.1})


def page(place: tuple[str, int]) -> str:
    """Return where an app tells what it has in hand."""
    return f"http://{place[0]}:{place[1]}/-/work"


def probe(url: str, kinds: Sequence[str] = IN_FLIGHT) -> str:
    """Return the probe that reads this page."""
    values = {
        "kind": "http_json",
        "url": url,
        "in_flight": {kind: f"/in_flight/{kind}" for kind in kinds},
        "started": "/started",
        "mark": "/process/mark",
        "wait_parameter": "wait",
    }
    return table("[[instance.probe]]", values)


def registry(kind: str, **values: Any) -> str:
    """Return the table of a registry."""
    return table("[[instance.registry]]", {"kind": kind, **values})


def shop_agent(place: Place, n: int) -> str:
    """Return the configuration of the agent beside an app."""
    name, agent = f"shop-{n}", f"agent-{n}"
    address, own = place.app(name), page(place.own(name))
    consul = f"http://{place.loopback(name)}:{CONSUL}"
    tables = [
        ready(address),
        registry("consul", url=consul, definition=place.file(f"/stack/consul/{name}.json")),
        registry("etcd", endpoints=[place.url("etcd", ETCD)], prefix="shop/"),
        "# The agent beside Nginx takes it out of the upstream.",
        registry(
            "agent",
            name="gateway",
            url=f"https://{place.at('gateway-agent')}:{AGENT}",
            token={"file": place.file(GATEWAY_TOKEN)},
            ca=place.file("/certificates/ca.pem"),
            certificate=place.file(f"/certificates/{name}.pem"),
            key=place.file(f"/certificates/{name}.key"),
        ),
        "# The app itself: it takes no more messages from the broker.",
        registry("http", name="messages", preset="app", url=own),
        probe(own),
        "# The pipeline sees this file.",
        table(
            "[[instance.notifier]]",
            {"kind": "ready_file", "path": place.file("/run/deregister-agent/drained", agent)},
        ),
    ]
    token = place.file("/var/lib/deregister-agent/token", agent)
    head = _server(place, agent, name, token)
    return "\n".join([head, instance(name, address, *tables, quiet=1, settle=SETTLE)])


def gateway_agent(place: Place) -> str:
    """Return the configuration of the agent beside Nginx: it reloads, and sees workers go."""
    instances = []
    for name in NAMES:
        in_nginx = registry(
            "nginx",
            upstream="shop",
            config=place.file("/stack/nginx/nginx.conf"),
            file=place.file(f"/upstreams/{name}.conf"),
            parameters="max_fails=0",
        )
        address = place.app(name)
        reads = probe(page(address), ("requests", "websockets"))
        instances.append(instance(name, address, in_nginx, reads, process={"by": "probe"}))
    head = _server(place, "gateway-agent", "gateway", place.file(GATEWAY_TOKEN))
    return "\n".join([head, *instances])


def _server(place: Place, agent: str, name: str, token: str) -> str:
    """Return how an agent is reached: by a Unix socket, and from other hosts with certificates."""
    tls = {"certificate": f"{name}.pem", "key": f"{name}.key", "client_ca": "ca.pem"}
    socket = place.file("/run/deregister-agent/agent.sock", agent)
    journal = place.file("/var/lib/deregister-agent/journal.db", agent)
    listen = [f"unix:{socket}", f"{place.at(agent)}:{AGENT}"]
    return "\n".join(
        [
            table("[agent]", {"journal": journal, "log_format": "text"}),
            table("[server]", {"listen": listen, "token_file": token}),
            table(
                "[server.tls]",
                {key: place.file(f"/certificates/{file}") for key, file in tls.items()},
            ),
        ]
    )
