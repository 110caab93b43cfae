"""A real etcd of either version, with each layout: keys of their own, and shared documents."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from deregister_agent.demo.stage import free_ports
from deregister_agent.model import Instance
from deregister_agent.registries.etcd.registry import Etcd, Options, build
from tests.contract.registries import World
from tests.servers.etcd import shared

LIMIT = 0.5
Write = Callable[[str, int], tuple[str, str]]
"""From the name of a service and a port to key and value."""


def _json(**names: Any) -> str:
    return json.dumps(names)


LAYOUTS: dict[str, Write] = {
    "grpc": lambda s, p: (f"{s}/a{p}", _json(Op=0, Addr=f"127.0.0.1:{p}", Metadata=None)),
    "go-zero": lambda s, p: (f"{s}/75878{p}", f"127.0.0.1:{p}"),
    "kratos": lambda s, p: (
        f"/microservices/{s}/id-{p}",
        _json(id=f"id-{p}", name=s, endpoints=[f"grpc://127.0.0.1:{p}?isSecure=false"]),
    ),
    "go-micro": lambda s, p: (
        f"/micro/registry/{s}/{s}-{p}",
        _json(name=s, nodes=[{"id": f"{s}-{p}", "address": f"127.0.0.1:{p}"}]),
    ),
    "kitex": lambda s, p: (
        f"kitex/registry-etcd/{s}/127.0.0.1:{p}",
        _json(network="tcp", address=f"127.0.0.1:{p}", weight=10, tags=None),
    ),
    "skydns": lambda s, p: (f"/skydns/{s}/x{p}", _json(host="127.0.0.1", port=p, ttl=60)),
    "traefik": lambda s, p: (
        f"traefik/http/services/{s}/loadbalancer/servers/{p}/url",
        f"http://127.0.0.1:{p}",
    ),
}


def _at(options: dict[str, Any], service: str, port: int) -> Etcd:
    given = {"kind": "etcd", "timeout": 3.0} | options
    return build(
        Options.model_validate_json(json.dumps(given)),
        Instance(f"{service}-{port}", service, "127.0.0.1", port),
    )


@contextmanager
def keys(folder: Path, *, version: str, layout: str, own: bool = False) -> Iterator[World]:
    """Write three instances of a service of its own, on leases; *own*: the key is named."""
    del folder
    server, ports = shared(version), free_ports(4)
    service, write = f"orders-{ports[0]}", LAYOUTS[layout]
    lease = server.grant(600)
    options: dict[str, Any] = {"layout": layout, "endpoints": [server.url]}

    def options_of(port: int) -> dict[str, Any]:
        return options | ({"key": write(service, port)[0]} if own else {})

    def there(port: int) -> Etcd:
        return _at(options_of(ports[0]) | _elsewhere(port), service, ports[0])

    def register(n: int = 0) -> None:
        server.put(*write(service, ports[n]), lease)

    def leaving_out(name: str) -> Etcd:
        return _at(options_of(ports[0]) | {"not_ours": [name]}, service, ports[0])

    def add_other() -> str:
        key = "note".join(write(service, ports[0])[0].rsplit(str(ports[0]), 1))
        server.put(key, f"see http://127.0.0.1:{ports[0]}/metrics", lease)
        others.append(key)
        return key

    others: list[str] = []
    for n in range(3):
        register(n)
    ours = write(service, ports[0])[0]
    beside = server.keyspace(without=ours)
    yield World(
        registry=_at(options_of(ports[0]), service, ports[0]),
        relist=register,
        neighbours=lambda: sum(server.get(write(service, p)[0]) is not None for p in ports[1:3]),
        absent=_at(options_of(ports[3]), service, ports[3]),
        silent=there,
        refused=there,
        alike=_at({"prefix": f"{service}x", "endpoints": [server.url]}, service, ports[0]),
        alike_named=repr(ours),
        add_other=add_other,
        leaving_out=leaving_out,
    )
    for key in others:
        server.delete(key)
    assert server.keyspace(without=ours) == beside
    server.revoke(lease)


def _elsewhere(port: int) -> dict[str, Any]:
    return {"endpoints": [f"http://127.0.0.1:{port}"], "timeout": LIMIT}


def _as_list(ports: list[int]) -> list[Any]:
    return [{"host": "127.0.0.1", "port": port, "weight": 1} for port in ports]


def _as_object(ports: list[int]) -> dict[str, Any]:
    return {f"127.0.0.1:{port}": 1 for port in ports}


@contextmanager
def document(folder: Path, *, version: str, nodes: Callable[[list[int]], Any]) -> Iterator[World]:
    """Write one document with three instances, as APISIX has it."""
    del folder
    server, ports = shared(version), free_ports(4)
    key = f"/apisix/upstreams/{ports[0]}"
    options = {"mode": "document", "key": key, "pointer": "/nodes", "endpoints": [server.url]}

    def write() -> None:
        server.put(key, json.dumps({"type": "roundrobin", "nodes": nodes(ports[:3]), "retries": 1}))

    def add_other() -> str:
        upstream = json.loads(server.get(key) or "{}")
        server.put(key, json.dumps(upstream | {"checks": f"http://127.0.0.1:{ports[0]}/health"}))
        return "/checks"

    def neighbours() -> int:
        text = json.dumps(json.loads(server.get(key) or "{}")["nodes"])
        return sum(str(port) in text for port in ports[1:3])

    def there(port: int) -> Etcd:
        return _at(options | _elsewhere(port), "orders", ports[0])

    write()
    beside = server.keyspace(without=key)
    yield World(
        registry=_at(options, "orders", ports[0]),
        relist=write,
        neighbours=neighbours,
        absent=_at(options, "orders", ports[3]),
        silent=there,
        refused=there,
        alike=_at(options | {"pointer": ""}, "orders", ports[0]),
        alike_named='pointer = "/nodes"',
        add_other=add_other,
        leaving_out=lambda name: _at(options | {"not_ours": [name]}, "orders", ports[0]),
    )
    assert server.keyspace(without=key) == beside
    server.delete(key)


WORLDS = {
    **{f"3.5-{layout}": partial(keys, version="3.5", layout=layout) for layout in LAYOUTS},
    "3.5-key": partial(keys, version="3.5", layout="grpc", own=True),
    "3.5-list": partial(document, version="3.5", nodes=_as_list),
    "3.5-object": partial(document, version="3.5", nodes=_as_object),
    "3.4-go-zero": partial(keys, version="3.4", layout="go-zero"),
    "3.4-list": partial(document, version="3.4", nodes=_as_list),
}
