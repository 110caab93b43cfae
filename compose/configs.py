"""The files that the parts of the stack read."""

import json

import yaml

from compose.places import AGENT, GATEWAY, HOSTS, LOAD, NAMES, Place
from compose.tables import SERVICE, gateway_agent, shop_agent

WRITTEN = "Written by `python -m compose.render`."


def files(place: Place) -> dict[str, str]:
    """Return the text of each file, by its path in the folder ``compose``."""
    comment = f"# {WRITTEN}\n"
    return {
        **{f"agents/shop-{n}.toml": comment + shop_agent(place, n) for n in HOSTS},
        "agents/gateway.toml": comment + gateway_agent(place),
        **{f"consul/shop-{n}.json": definition(place, n) for n in HOSTS},
        "nginx/nginx.conf": comment + nginx(place),
        "prometheus/prometheus.yml": comment + prometheus(place),
    }


def definition(place: Place, n: int) -> str:
    """Return the service as Consul's agent of that host, and ours, register it."""
    name = f"shop-{n}"
    address, port = place.app(name)
    url = f"http://{address}:{port}/healthz"
    check = {"name": "answers", "http": url, "interval": "1s", "timeout": "1s"}
    service = {"id": name, "name": SERVICE, "address": address, "port": port}
    return json.dumps({"service": {**service, "checks": [check]}}, indent=2) + "\n"


def nginx(place: Place) -> str:
    """Return Nginx' configuration: nothing is sent a second time, what an app loses is lost."""
    folder = place.file("/run/nginx")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in kinds)
    return _NGINX.format(
        folder=folder,
        folders=folders,
        upstreams=place.file("/upstreams"),
        listen=f"{place.at('gateway')}:{GATEWAY}",
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
    upstream shop {{
        zone shop 64k;
        include {upstreams}/shop-*.conf;
    }}

    server {{
        listen {listen};

        location = /gateway {{
            return 200 "gateway\\n";
        }}

        location / {{
            proxy_pass http://shop;
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
