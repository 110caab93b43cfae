"""
The stack, described once: what runs, with which command, after what, and when it is ready.

``compose.render`` makes ``compose.yaml`` of this, for containers; ``compose.local`` starts
the same as plain processes on loopback.
"""

from compose.hosts import GATEWAY_VOLUMES, IDLE, agent, host, joined
from compose.places import (
    AMQP,
    CONSUL,
    ETCD,
    GATEWAY,
    HOSTS,
    LOAD,
    NAMES,
    PROMETHEUS,
    REDIS,
    Place,
    Service,
)

USER = "10001:10001"


def services(place: Place) -> list[Service]:
    """Return all of them; each stands after those that it needs."""
    hosts = [each for n in HOSTS for each in host(place, n)]
    return [_prepare(place), *_servers(place), *_gateway(place), *hosts, *_around(place)]


def _prepare(place: Place) -> Service:
    folders = ("/certificates", "/upstreams", "/run/nginx")
    return Service(
        "prepare",
        "PYTHON_IMAGE",
        [
            *("sh", place.file("/stack/prepare.sh"), *map(place.file, folders)),
            f"gateway={place.at('gateway-agent')}",
            f"prometheus={place.at('prometheus')}",
            *(f"{name}={joined(place.app(name))}" for name in NAMES),
        ],
        once=True,
        compose={
            "user": "root",
            "network_mode": "none",
            "environment": {"OWNER": USER},
            "volumes": ["certificates:/certificates", "upstreams:/upstreams", "nginx:/run/nginx"],
        },
    )


def _servers(place: Place) -> list[Service]:
    consul, etcd = place.at("consul-server"), place.url("etcd", ETCD)
    peers = place.url("etcd", ETCD + 1)
    return [
        Service(
            "consul-server",
            "CONSUL_IMAGE",
            [
                *("consul", "agent", "-server", "-bootstrap-expect=1", "-node=consul-server"),
                f"-data-dir={place.scratch('consul-server', 'consul')}",
                *(f"-bind={consul}", f"-client={consul}", "-ui"),
            ],
            healthy=["consul", "operator", "raft", "list-peers"],
            port=CONSUL,
            compose={"environment": {"CONSUL_HTTP_ADDR": f"{consul}:{CONSUL}"}},
        ),
        Service(
            "etcd",
            "ETCD_IMAGE",
            [
                *("etcd", f"--data-dir={place.scratch('etcd', 'etcd')}"),
                *(f"--listen-client-urls={etcd}", f"--advertise-client-urls={etcd}"),
                *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
                f"--initial-cluster=default={peers}",
            ],
            healthy=["etcdctl", "endpoint", "health"],
            port=ETCD,
            compose={"environment": {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": etcd}},
        ),
        Service(
            "redis",
            "REDIS_IMAGE",
            [
                *("redis-server", "--bind", place.at("redis"), "--protected-mode", "no"),
                *("--save", "", "--dir", place.scratch("redis")),
            ],
            healthy=["redis-cli", "-h", place.at("redis"), "ping"],
            port=REDIS,
        ),
        Service(
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
        ),
        Service(
            "register",
            "SHOP_IMAGE",
            [
                "python",
                "-m",
                "compose.register",
                etcd,
                *(f"{n}={joined(place.app(n))}" for n in NAMES),
            ],
            needs=["etcd"],
            once=True,
        ),
    ]


def _gateway(place: Place) -> list[Service]:
    conf, address = place.file("/stack/nginx/nginx.conf"), f"{place.at('gateway')}:{GATEWAY}"
    return [
        Service(
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
        ),
        agent(
            place,
            "gateway",
            needs=["gateway"],
            compose={"network_mode": "service:gateway", "pid": "service:gateway"},
            image="GATEWAY_AGENT",
        ),
    ]


def _around(place: Place) -> list[Service]:
    """Return who uses the stack, and who watches it."""
    agents = [f"agent-{n}" for n in HOSTS]
    address = place.at("prometheus")
    return [
        Service(
            "load",
            "SHOP_IMAGE",
            [
                *("python", "-m", "compose.load", place.scratch("load", "load.json")),
                *("--gateway", f"{place.at('gateway')}:{GATEWAY}"),
                *("--consul", place.url("consul-server", CONSUL)),
                *("--etcd", place.url("etcd", ETCD), "--broker", joined(place.queue)),
                *("--metrics", f"{place.at('load')}:{LOAD}"),
            ],
            needs=agents,
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
            needs=agents,
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
