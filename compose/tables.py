"""The agents' configurations, table by table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compose.places import AGENT, CONSUL, NAMES, QUIET, SERVICE, Place, agent_of, joined

RPC_SERVICE, RPC_UPSTREAM = f"{SERVICE}-grpc", f"{SERVICE}_grpc"
"""What the apps are called in etcd and in Nginx where they take calls by gRPC."""
IN_FLIGHT = ("requests", "websockets", "tasks", "messages")
GATEWAY_TOKEN = "/certificates/gateway.token"


def table(name: str, values: Mapping[str, Any]) -> str:
    """Return a TOML table; a JSON string, number or list is TOML as well."""
    return "\n".join([name, *(f"{key} = {_toml(value)}" for key, value in values.items()), ""])


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def instance(name: str, place: tuple[str, int], *tables: str, **more: Any) -> str:
    """Return an instance at that address and port, with the tables of its backends."""
    head = {"name": name, "service": SERVICE, "address": place[0], "port": place[1], **more}
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


def shop_agent(place: Place, name: str) -> str:
    """Return the configuration of the agent beside an app."""
    address, own, agent = place.app(name), page(place.own(name)), agent_of(name)
    tables = [
        ready(address),
        *_listed(place, name),
        "# The app itself: it takes no more messages from a queue.",
        registry("http", name="messages", preset="app", url=own),
        probe(own),
        "# The pipeline sees this file.",
        table(
            "[[instance.notifier]]",
            {"kind": "ready_file", "path": place.file("/run/deregister-agent/drained", agent)},
        ),
    ]
    times = {"quiet": QUIET, "settle": place.settle, "deadline": place.deadline}
    token = f"{place.state(agent)}/token"
    return "\n".join(
        [_server(place, agent, name, token), instance(name, address, *tables, **times)]
    )


def _listed(place: Place, name: str) -> Iterator[str]:
    """Give the registry of each front that lists an app."""
    if "Consul" in place.parts:
        url = f"http://{place.loopback(name)}:{CONSUL}"
        yield registry("consul", url=url, definition=place.file(f"/stack/consul/{name}.json"))
    if "etcd" in place.parts:
        yield registry("etcd", endpoints=place.etcd, prefix=f"{SERVICE}/")
        more = {"prefix": f"{RPC_SERVICE}/", "address": joined(place.rpc(name))}
        yield registry("etcd", name="etcd-grpc", endpoints=place.etcd, **more)
    if "Nginx" in place.parts:
        yield "# The agent beside Nginx takes it out of the upstreams."
        yield registry(
            "agent",
            name="gateway",
            url=f"https://{place.at('gateway-agent')}:{AGENT}",
            token={"file": place.file(GATEWAY_TOKEN)},
            ca=place.file("/certificates/ca.pem"),
            certificate=place.file(f"/certificates/{name}.pem"),
            certificate_key=place.file(f"/certificates/{name}.key"),
        )


def upstreams(place: Place, name: str) -> dict[str, tuple[str, tuple[str, int]]]:
    """Return each upstream of an app, with its own file there and the place that it leads to."""
    return {
        SERVICE: (place.file(f"/upstreams/{name}.conf"), place.app(name)),
        RPC_UPSTREAM: (place.file(f"/upstreams/grpc-{name}.conf"), place.rpc(name)),
    }


def gateway_agent(place: Place) -> str:
    """Return the configuration of the agent beside Nginx: it reloads, and sees workers go."""
    instances = []
    for name in NAMES:
        in_nginx = [
            registry(
                "nginx",
                name=f"nginx-{upstream}",
                upstream=upstream,
                config=place.file("/stack/nginx/nginx.conf"),
                file=file,
                server=joined(server),
                parameters="max_fails=0",
            )
            for upstream, (file, server) in upstreams(place, name).items()
        ]
        address = place.app(name)
        reads = probe(page(address), ("requests", "websockets"))
        instances.append(instance(name, address, *in_nginx, reads, process={"by": "probe"}))
    head = _server(place, "gateway-agent", "gateway", place.file(GATEWAY_TOKEN))
    return "\n".join([head, *instances])


def _server(place: Place, agent: str, name: str, token: str) -> str:
    """Return how an agent is reached: by a Unix socket, and from other hosts with certificates."""
    tls = {"certificate": f"{name}.pem", "key": f"{name}.key", "client_ca": "ca.pem"}
    journal, listen = f"{place.state(agent)}/journal.db", f"{place.at(agent)}:{AGENT}"
    return "\n".join(
        [
            table("[agent]", {"journal": journal, "log_format": "text"}),
            table(
                "[server]", {"listen": [f"unix:{place.socket(agent)}", listen], "token_file": token}
            ),
            table(
                "[server.tls]",
                {key: place.file(f"/certificates/{file}") for key, file in tls.items()},
            ),
        ]
    )
