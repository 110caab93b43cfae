"""
The stack, described once: what runs, with which command, after what, and when it is ready.

``compose.render`` makes ``compose.yaml`` of this, for containers; ``compose.processes``
starts any of it as plain processes on loopback.
"""

from collections.abc import Iterator
from dataclasses import replace

from compose.hosts import GATEWAY_VOLUMES, IDLE, agent, hosts, joining
from compose.places import (
    AMQP,
    BROKER,
    CONSUL,
    CONSULS,
    ETCD,
    GATEWAY,
    LOAD,
    NAMES,
    PROMETHEUS,
    REDIS,
    SERVICE,
    WATCHERS,
    Place,
    Service,
    joined,
)
from compose.tables import RPC_SERVICE, upstreams

USER = "10001:10001"


def services(place: Place) -> list[Service]:
    """Return those that run there; each stands after those of them that it needs."""
    parts = {"Consul": _consul, "etcd": _etcd, BROKER: _broker, "Nginx": _gateway}
    found = [_prepare(place), _redis(place)]
    found += [each for part, of in parts.items() if part in place.parts for each in of(place)]
    found += [*hosts(place), *(_watchers(place) if WATCHERS in place.parts else ())]
    names = {each.name for each in found}
    return [replace(each, needs=[n for n in each.needs if n in names]) for each in found]


def _prepare(place: Place) -> Service:
    folders = ("/certificates", "/upstreams", "/run/nginx")
    servers = [
        f"{file.rpartition('/')[2]}={joined(server)}"
        for name in NAMES
        for file, server in upstreams(place, name).values()
    ]
    return Service(
        "prepare",
        "PYTHON_IMAGE",
        [
            *("sh", place.file("/stack/prepare.sh"), *map(place.file, folders)),
            f"gateway={place.at('gateway-agent')}",
            f"prometheus={place.at('prometheus')}",
            *(f"{name}={place.at(name)}" for name in NAMES),
            *(servers if "Nginx" in place.parts else ()),
        ],
        once=True,
        compose={
            "user": "root",
            "network_mode": "none",
            "environment": {"OWNER": USER},
            "volumes": ["certificates:/certificates", "upstreams:/upstreams", "nginx:/run/nginx"],
        },
    )


def _consul(place: Place) -> Iterator[Service]:
    for name in CONSULS[: place.consuls]:
        at = place.at(name)
        yield Service(
            name,
            "CONSUL_IMAGE",
            [
                *("consul", "agent", "-server", f"-bootstrap-expect={place.consuls}"),
                *(f"-node={name}", f"-data-dir={place.scratch(name, 'consul')}"),
                *(f"-bind={at}", f"-client={at}", "-ui", *joining(place, name)),
                "-hcl=performance { raft_multiplier = 1 }",  # as for production
            ],
            healthy=["consul", "operator", "raft", "list-peers"],
            port=CONSUL,
            compose={"environment": {"CONSUL_HTTP_ADDR": f"{at}:{CONSUL}"}},
        )


def _etcd(place: Place) -> Iterator[Service]:
    if not place.members:
        yield _member(place)
    keys = [
        f"{service}/{name}={joined(server)}"
        for name in NAMES
        for service, server in ((SERVICE, place.app(name)), (RPC_SERVICE, place.rpc(name)))
    ]
    yield Service(
        "register",
        "SHOP_IMAGE",
        ["python", "-m", "compose.register", place.etcd[0], *keys],
        needs=["etcd"],
        once=True,
    )


def _member(place: Place) -> Service:
    url, peers = place.url("etcd", ETCD), place.url("etcd", ETCD + 1)
    return Service(
        "etcd",
        "ETCD_IMAGE",
        [
            *("etcd", f"--data-dir={place.scratch('etcd', 'etcd')}"),
            *(f"--listen-client-urls={url}", f"--advertise-client-urls={url}"),
            *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
            f"--initial-cluster=default={peers}",
        ],
        healthy=["etcdctl", "endpoint", "health"],
        port=ETCD,
        compose={"environment": {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": url}},
    )


def _redis(place: Place) -> Service:
    return Service(
        "redis",
        "REDIS_IMAGE",
        [
            *("redis-server", "--bind", place.at("redis"), "--protected-mode", "no"),
            *("--save", "", "--dir", place.scratch("redis")),
        ],
        healthy=["redis-cli", "-h", place.at("redis"), "ping"],
        port=REDIS,
    )


def _broker(place: Place) -> Iterator[Service]:
    if not place.broker:
        yield Service(
            "broker",
            "BROKER_IMAGE",
            ["rabbitmq-server"],
            healthy=["rabbitmq-diagnostics", "-q", "check_port_connectivity"],
            every=5,
            port=AMQP,
            compose={
                "user": "rabbitmq",
                "hostname": "broker",
                "environment": {"RABBITMQ_LOGS": "-"},
                "volumes": ["./rabbitmq.conf:/etc/rabbitmq/rabbitmq.conf:ro"],
            },
        )


def _gateway(place: Place) -> Iterator[Service]:
    conf, address = place.file("/stack/nginx/nginx.conf"), f"{place.at('gateway')}:{GATEWAY}"
    yield Service(
        "gateway",
        "NGINX_IMAGE",
        ["nginx", "-c", conf, "-g", "daemon off;"],
        needs=["prepare"],
        healthy=["curl", "-fsS", f"http://{address}/gateway"],
        port=GATEWAY,
        compose={
            "ports": [f"127.0.0.1:${{GATEWAY_PORT}}:{GATEWAY}"],
            "volumes": GATEWAY_VOLUMES,
        },
    )
    yield agent(
        place,
        "gateway",
        needs=["gateway"],
        compose={"network_mode": "service:gateway", "pid": "service:gateway"},
        image="GATEWAY_AGENT",
    )


def _watchers(place: Place) -> list[Service]:
    """Return who uses the stack, and who watches it."""
    address = place.at("prometheus")
    return [
        Service(
            "load",
            "SHOP_IMAGE",
            [
                *("python", "-m", "compose.load", place.scratch("load", "load.json")),
                *("--net", place.net, "--broker", joined(place.queue), "--parts", *place.parts),
            ],
            needs=place.agents,
            port=LOAD,
            compose={"stop_grace_period": "60s"},
        ),
        Service(
            "prometheus",
            "PROMETHEUS_IMAGE",
            [
                *("prometheus", f"--config.file={place.file('/stack/prometheus/prometheus.yml')}"),
                f"--storage.tsdb.path={place.scratch('prometheus', 'prometheus')}",
                f"--web.listen-address={address}:{PROMETHEUS}",
            ],
            needs=["prepare"],
            port=PROMETHEUS,
            compose={
                "ports": [f"127.0.0.1:${{PROMETHEUS_PORT}}:{PROMETHEUS}"],
                "volumes": ["certificates:/certificates:ro"],
            },
        ),
        Service(  # where a deploy pipeline would run: it reaches the agents by their sockets
            "pipeline",
            "CURL_IMAGE",
            ["sleep", "infinity"],
            needs=place.agents,
            compose={**IDLE, "volumes": [f"socket-{n}:/run/{n}" for n in ("gateway", *NAMES)]},
        ),
        Service(
            "grafana",
            "GRAFANA_IMAGE",
            needs=["prometheus"],
            compose={
                "user": "472",
                "profiles": ["grafana"],
                "ports": ["127.0.0.1:${GRAFANA_PORT}:3000"],
                "environment": {
                    "GF_AUTH_ANONYMOUS_ENABLED": "true",
                    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
                },
                "volumes": [
                    "./grafana/provisioning:/etc/grafana/provisioning:ro",
                    "./grafana/dashboards:/dashboards:ro",
                ],
            },
        ),
    ]
