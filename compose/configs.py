"""The files that the parts of the stack read."""

import json

import yaml

from compose.places import (
    AGENT,
    GATEWAY,
    GATEWAY_RPC,
    LOAD,
    NAMES,
    SERVICE,
    WATCHERS,
    Place,
    joined,
)
from compose.tables import RPC_UPSTREAM, gateway_agent, shop_agent

WRITTEN = "Written by `python -m compose.render`."
RPC_PORT = "gRPC_port"
"""Where in a service's metadata gRPC clients of Consul look for the port."""


def files(place: Place) -> dict[str, str]:
    """Return the text of each file, by its path in the folder ``compose``."""
    comment = f"# {WRITTEN}\n"
    found = {f"agents/{name}.toml": comment + shop_agent(place, name) for name in NAMES}
    if "Consul" in place.parts:
        found |= {f"consul/{name}.json": definition(place, name) for name in NAMES}
    if "Nginx" in place.parts:
        found["agents/gateway.toml"] = comment + gateway_agent(place)
        found["nginx/nginx.conf"] = comment + nginx(place)
    if WATCHERS in place.parts:
        found["prometheus/prometheus.yml"] = comment + prometheus(place)
    return found


def definition(place: Place, name: str) -> str:
    """Return the service as Consul's agent of that host, and ours, register it."""
    address, port = place.app(name)
    url = f"http://{address}:{port}/healthz"
    check = {"name": "answers", "http": url, "interval": "1s", "timeout": "1s"}
    service = {"id": name, "name": SERVICE, "address": address, "port": port}
    meta = {RPC_PORT: str(place.rpc(name)[1])}
    return json.dumps({"service": {**service, "meta": meta, "checks": [check]}}, indent=2) + "\n"


def nginx(place: Place) -> str:
    """Return Nginx' configuration: nothing is sent a second time, what an app loses is lost."""
    folder, at = place.file("/run/nginx"), place.at("gateway")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in kinds)
    return _NGINX.format(
        folder=folder,
        folders=folders,
        upstreams=place.file("/upstreams"),
        listen=joined((at, GATEWAY)),
        listen_rpc=joined((at, GATEWAY_RPC)),
        service=SERVICE,
        rpc=RPC_UPSTREAM,
    )


_NGINX = """\
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
worker_processes 2;
worker_shutdown_timeout 60s;

events {{
    worker_connections 512;
}}

http {{
    access_log off;
{folders}

    map $http_upgrade $connection_upgrade {{
        default upgrade;
        "" "";
    }}

    # One small file for each instance; the agent owns those, and nothing else.
    upstream {service} {{
        zone {service} 64k;
        include {upstreams}/shop-*.conf;
    }}

    upstream {rpc} {{
        zone {rpc} 64k;
        include {upstreams}/grpc-*.conf;
    }}

    # Since 1.25.1 there is "http2 on;", which older ones do not know.
    server {{
        listen {listen_rpc} http2;

        location / {{
            grpc_pass grpc://{rpc};
            grpc_next_upstream off;
        }}
    }}

    server {{
        listen {listen};

        location = /gateway {{
            return 200 "gateway\\n";
        }}

        location / {{
            proxy_pass http://{service};
            proxy_next_upstream off;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""


def prometheus(place: Place) -> str:
    """Return what Prometheus is to scrape: all agents, and the load."""
    keys = {"ca_file": "ca.pem", "cert_file": "prometheus.pem", "key_file": "prometheus.key"}
    apps = [f"{place.at(name)}:{AGENT}" for name in NAMES]
    gateway = [f"{place.at('gateway-agent')}:{AGENT}"]
    agents = {
        "job_name": "agents",
        "scheme": "https",
        "tls_config": {key: place.file(f"/certificates/{file}") for key, file in keys.items()},
        "static_configs": [
            {"targets": apps, "labels": {"role": "app"}},
            {"targets": gateway, "labels": {"role": "gateway"}},
        ],
    }
    load = {
        "job_name": "load",
        "static_configs": [{"targets": [f"{place.at('load')}:{LOAD}"]}],
    }
    scrape = {"global": {"scrape_interval": "1s"}, "scrape_configs": [agents, load]}
    return yaml.safe_dump(scrape, sort_keys=False)
