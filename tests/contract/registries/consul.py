"""A real Consul, in each mode, with ACLs and without."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from deregister_agent.config.options import Secret
from deregister_agent.demo.stage import free_ports
from deregister_agent.model import Instance
from deregister_agent.registries.consul.registry import Consul, Options, build
from tests.contract.registries import World
from tests.servers.consul import shared

LIMIT = 0.5
CHECKS = [{"check_id": "alive", "name": "alive", "ttl": "1h", "status": "passing"}]


@contextmanager
def world(folder: Path, *, mode: str, acl: bool = False, checks: bool = False) -> Iterator[World]:
    """Register three instances of a service of its own with the shared server."""
    server = shared(acl=acl)
    ports = free_ports(4)
    service = f"orders-{ports[0]}"
    options: dict[str, Any] = {"mode": mode}
    if server.token:
        (folder / "token").write_text(server.token)
        options["token"] = Secret(file=folder / "token")

    def definition(n: int) -> dict[str, Any]:
        labels = {"Tags": ["blue", "v1"], "Meta": {"zone": "a"}}
        place = {"ID": f"{service}-{n}", "Name": service, "Address": "127.0.0.1", "Port": ports[n]}
        return place | labels | {"Weights": {"Passing": 3, "Warning": 1}}

    def registry(n: int, **more: Any) -> Consul:
        instance = Instance(f"{service}-{n}", service, "127.0.0.1", ports[n])
        return build(Options(kind="consul", **{"url": server.url} | options | more), instance)

    def at(port: int) -> Consul:
        return registry(0, url=f"http://127.0.0.1:{port}", timeout=LIMIT)

    def maintain() -> None:
        server.client.agent.service.maintenance(f"{service}-0", enable=True, reason="disk")
        server.wait_for_check(service, f"_service_maintenance:{service}-0")

    def lift() -> None:
        server.client.agent.service.maintenance(f"{service}-0", enable=False)

    def add_other() -> str:
        server.register(definition(0) | {"ID": f"{service}-metrics", "Name": f"{service}-metrics"})
        return f"{service}-metrics"

    if checks:
        services = [definition(n) | {"checks": CHECKS[: n == 0]} for n in range(4)]
        (folder / "definition.json").write_text(json.dumps({"services": services}))
        options["definition"] = folder / "definition.json"
        registry(0).restore(None)
    else:
        server.register(definition(0))
    server.register(definition(1))
    server.register(definition(2))
    yield World(
        registry=registry(0),
        relist=lift if mode == "maintenance" else partial(server.register, definition(0)),
        neighbours=lambda: sum(e["Service"]["Port"] in ports[1:3] for e in server.entries(service)),
        absent=registry(3),
        out=maintain if mode == "maintenance" else None,
        out_by="maintenance: disk",
        alike=registry(0, service_id=f"{service}-00", service=f"{service}s", definition=None),
        alike_named=f"ID '{service}-0' of service '{service}'",
        add_other=add_other,
        leaving_out=lambda name: registry(0, not_ours=(name,)),
        silent=at,
        refused=at,
    )
    for name in ("0", "1", "2", "metrics"):
        server.deregister(f"{service}-{name}")


WORLDS = {
    "deregister": partial(world, mode="deregister"),
    "definition": partial(world, mode="deregister", checks=True),
    "maintenance": partial(world, mode="maintenance"),
    "acl-deregister": partial(world, mode="deregister", acl=True),
    "acl-maintenance": partial(world, mode="maintenance", acl=True),
}
