"""The machines: an app, its agent and its Consul agent on each."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compose.places import (
    AGENT,
    BROKER,
    CONSUL,
    CONSULS,
    HOSTS,
    REDIS,
    Place,
    Service,
    agent_of,
    joined,
)

IDLE = {"init": True, "stop_grace_period": "1s"}
_ANSWERS = "import urllib.request as r; r.urlopen('http://{}/healthz', timeout=2)"


def hosts(place: Place) -> Iterator[Service]:
    """Give the machines, whose network and processes their services share, and those."""
    for n in HOSTS:
        machine, name = f"host-{n}", f"shop-{n}"
        shared = {"network_mode": f"service:{machine}", "pid": f"service:{machine}"}
        yield Service(machine, "SHOP_IMAGE", ["sleep", "infinity"], compose=IDLE)
        if "Consul" in place.parts:
            yield _consul(place, n)
        yield Service(
            name,
            "SHOP_IMAGE",
            _app(place, name),
            needs=["redis", "broker"],
            healthy=["python", "-c", _ANSWERS.format(joined(place.app(name)))],
            port=place.app(name)[1],
            compose=shared,
        )
        needs = ["prepare", "register", f"consul-{n}", name, "gateway-agent"]
        yield agent(place, name, needs=needs, compose=shared)


def _consul(place: Place, n: int) -> Service:
    """Return the Consul agent of a machine."""
    machine, consul = f"host-{n}", f"consul-{n}"
    return Service(
        consul,
        "CONSUL_IMAGE",
        [
            *("consul", "agent", f"-node={machine}", f"-bind={place.at(machine)}"),
            *(f"-client={place.loopback(machine)}", *joining(place, consul)),
            f"-data-dir={place.scratch(consul, 'consul')}",
            f"-config-file={place.file(f'/stack/consul/shop-{n}.json')}",
        ],
        needs=["consul-server"],
        healthy=["consul", "info"],
        port=CONSUL,
        compose={"network_mode": f"service:{machine}"},
    )


def joining(place: Place, name: str) -> list[str]:
    """Return how one of Consul finds the servers, or the others."""
    others = [each for each in CONSULS[: place.consuls] if each != name]
    return [*(f"-retry-join={place.at(each)}" for each in others), "-retry-interval=1s"]


def agent(
    place: Place, of: str, *, needs: Sequence[str], compose: Mapping[str, Any], image: str = "AGENT"
) -> Service:
    """Return the agent of an app, or of the gateway."""
    name = agent_of(of)
    file = place.file(f"/stack/agents/{of}.toml")
    own = [f"socket-{of}:/run/deregister-agent", f"journal-{of}:/var/lib/deregister-agent"]
    volumes = [*own, "certificates:/certificates:ro"]
    if of == "gateway":
        volumes += GATEWAY_VOLUMES
    return Service(
        name,
        f"{image}_IMAGE",
        ["deregister-agent", "--config", file, "serve"],
        needs=needs,
        healthy=["deregister-agent", "status", "--json"],
        every=5,
        port=AGENT,
        compose={
            **compose,
            "restart": "unless-stopped",
            "environment": {"DEREGISTER_CONFIG": file},
            "volumes": volumes,
        },
    )


GATEWAY_VOLUMES = ["upstreams:/upstreams", "nginx:/run/nginx"]


def _app(place: Place, name: str) -> list[str]:
    """Return the command line of one of the three apps."""
    redis, ledger = (place.at("redis"), REDIS), place.scratch(name, "ledger")
    command = [
        "python",
        "-m",
        "compose.shop.app",
        joined(place.app(name)),
        "--redis",
        joined(redis),
    ]
    command += ["--ledger", ledger, "--rpc", joined(place.rpc(name)), "--stream", name]
    command += ["--broker", joined(place.queue)] if BROKER in place.parts else []
    return [*command, "--own", joined(place.own(name)), *(["--wait"] if place.waits else [])]
