"""The machines: an app, its agent and its Consul agent on each."""

from collections.abc import Mapping, Sequence
from typing import Any

from compose.places import AGENT, CONSUL, REDIS, Place, Service

IDLE = {"init": True, "stop_grace_period": "1s"}
_ANSWERS = "import urllib.request as r; r.urlopen('http://{}/healthz', timeout=2)"


def host(place: Place, n: int) -> list[Service]:
    """Return a machine, whose network and processes the three share, and the three."""
    machine, consul, name = f"host-{n}", f"consul-{n}", f"shop-{n}"
    inside = {"network_mode": f"service:{machine}"}
    shared = {**inside, "pid": f"service:{machine}"}
    return [
        Service(machine, "SHOP_IMAGE", ["sleep", "infinity"], compose=IDLE),
        Service(
            consul,
            "CONSUL_IMAGE",
            [
                *("consul", "agent", f"-node={machine}", f"-bind={place.at(machine)}"),
                *(f"-client={place.loopback(machine)}", f"-retry-join={place.at('consul-server')}"),
                *("-retry-interval=1s", f"-data-dir={place.scratch(consul, 'consul')}"),
                f"-config-file={place.file(f'/stack/consul/{name}.json')}",
            ],
            needs=["consul-server"],
            healthy=["consul", "info"],
            port=CONSUL,
            compose=inside,
        ),
        Service(
            name,
            "SHOP_IMAGE",
            app(place, name, place.scratch(name, "ledger")),
            needs=["redis", "broker"],
            healthy=["python", "-c", _ANSWERS.format(joined(place.app(name)))],
            port=place.app(name)[1],
            compose=shared,
        ),
        agent(
            place,
            name,
            needs=["prepare", "register", consul, name, "gateway-agent"],
            compose=shared,
        ),
    ]


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


def agent_of(name: str) -> str:
    """Return what the agent of an app, or of the gateway, is called."""
    return "gateway-agent" if name == "gateway" else name.replace("shop", "agent")


def app(place: Place, name: str, ledger: str) -> list[str]:
    """Return the command line of one of the three apps."""
    more = ["--broker", joined(place.queue), "--own", joined(place.own(name))]
    return shop(place.app(name), (place.at("redis"), REDIS), ledger, *more)


def shop(place: tuple[str, int], redis: tuple[str, int], ledger: str, *more: str) -> list[str]:
    """Return the command line of an app."""
    command = ["python", "-m", "bench.shop", joined(place), "--redis", joined(redis)]
    return [*command, "--ledger", ledger, *more]


def joined(place: tuple[str, int]) -> str:
    """Return ``ADDRESS:PORT``."""
    return f"{place[0]}:{place[1]}"
