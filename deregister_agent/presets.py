"""
What to send to well-known systems, and how to read their answers: presets of ``http``.

Each was written from the documentation or the source that stands beside it; the page
docs/reference/registries/http.md says which could not be tried on the real product.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from deregister_agent.described import Look, Request

Name = Literal[
    "app",
    "dubbo",
    "envoy",
    "eureka",
    "nacos",
    "nginx_plus",
    "spring_bindings",
    "spring_serviceregistry",
]


@dataclass(frozen=True, slots=True)
class Preset:
    """The three requests, and the variables that have a usual value."""

    withdraw: Request
    restore: Request
    look: Look
    variables: Mapping[str, str] = field(default_factory=dict)


_JSON = {"Accept": "application/json"}
_ENTRY = "serviceName={service}&groupName={group}&namespaceId={namespace}&clusterName={cluster}"
# An update replaces weight and metadata, and a wrong ephemeral makes a second instance that
# nobody can delete (alibaba/nacos issue 2003): so what is there is sent back.
_UPDATE = (
    f"/v1/ns/instance?{_ENTRY}&ip={{address}}&port={{port}}"
    "&ephemeral={ephemeral}&weight={weight}&metadata={metadata}"
)
_STATE = r'(?i)"state"\s*:\s*"({})"'
_STATUS = r'^\s*"?{0}"?\s*$|"status"\s*:\s*"{0}"'

PRESETS: Mapping[Name, Preset] = {
    # docs/reference/app.md: 200 once the hooks of every process have returned.
    "app": Preset(
        withdraw=Request(path="/stop"),
        restore=Request(path="/start"),
        look=Look(pointer="/stopped", listed=(False,), withdrawn=(True,)),
    ),
    # dubbo.apache.org, QoS: one table row for each service, Y or N in its last column, or
    # "registry-A(Y)" since 3.0.
    "dubbo": Preset(
        withdraw=Request(method="GET", path="/offline", answer="OK"),
        restore=Request(method="GET", path="/online", answer="OK"),
        look=Look(
            path="/ls",
            by="text",
            listed=(r"\(Y\)", r"\|\s*Y\s*\|"),
            withdrawn=(r"\(N\)", r"\|\s*N\s*\|"),
        ),
    ),
    # envoyproxy.io, "Administration interface": ServerInfo.state is DRAINING while failed.
    "envoy": Preset(
        withdraw=Request(path="/healthcheck/fail"),
        restore=Request(path="/healthcheck/ok"),
        look=Look(path="/server_info", pointer="/state", listed=("LIVE",), withdrawn=("DRAINING",)),
    ),
    # Netflix/eureka wiki, "Eureka REST operations". Only the override is proof: DOWN and
    # STARTING end by themselves.
    "eureka": Preset(
        withdraw=Request(method="PUT", path="/apps/{app}/{id}/status?value=OUT_OF_SERVICE"),
        restore=Request(method="DELETE", path="/apps/{app}/{id}/status?value=UP"),
        look=Look(
            path="/apps/{app}/{id}",
            headers=_JSON,
            pointer="/instance/status",
            listed=("UP", "DOWN", "STARTING", "UNKNOWN"),
            withdrawn=("OUT_OF_SERVICE",),
            absent=(404,),
        ),
    ),
    # nacos.io, "Open API"; the list of the console, as the other one leaves out the disabled.
    "nacos": Preset(
        withdraw=Request(method="PUT", path=f"{_UPDATE}&enabled=false", answer="^ok"),
        restore=Request(method="PUT", path=f"{_UPDATE}&enabled=true", answer="^ok"),
        look=Look(
            path=f"/v1/ns/catalog/instances?{_ENTRY}&pageNo=1&pageSize=10000",
            entries="/list",
            where={"/ip": "{address}", "/port": "{port}"},
            pointer="/enabled",
            listed=(True,),
            withdrawn=(False,),
            keep={"ephemeral": "/ephemeral", "weight": "/weight", "metadata": "/metadata"},
        ),
        variables={"group": "DEFAULT_GROUP", "namespace": "public", "cluster": "DEFAULT"},
    ),
    # nginx.org, ngx_http_api_module: PATCH of a server in an upstream with a zone.
    "nginx_plus": Preset(
        withdraw=Request(
            method="PATCH", path="/http/upstreams/{upstream}/servers/{id}", payload={"down": True}
        ),
        restore=Request(
            method="PATCH", path="/http/upstreams/{upstream}/servers/{id}", payload={"down": False}
        ),
        look=Look(
            path="/http/upstreams/{upstream}/servers",
            entries="",
            where={"/server": "{address}:{port}"},
            pointer="/down",
            listed=(False,),
            withdrawn=(True,),
            keep={"id": "/id"},
        ),
    ),
    # docs.spring.io, Spring Cloud Stream, "Binding visualization and control".
    "spring_bindings": Preset(
        withdraw=Request(
            path="/bindings/{binding}", payload={"state": "{stop}"}, expect=(200, 204)
        ),
        restore=Request(
            path="/bindings/{binding}", payload={"state": "{start}"}, expect=(200, 204)
        ),
        look=Look(
            path="/bindings/{binding}",
            by="text",
            listed=(_STATE.format("running|started|resumed"),),
            withdrawn=(_STATE.format("stopped|paused"),),
        ),
        variables={"stop": "STOPPED", "start": "STARTED"},
    ),
    # Spring Cloud Commons, ServiceRegistryEndpoint: a text, or an object with Eureka.
    "spring_serviceregistry": Preset(
        withdraw=Request(
            path="/serviceregistry", payload={"status": "OUT_OF_SERVICE"}, expect=(200, 204)
        ),
        restore=Request(path="/serviceregistry", payload={"status": "UP"}, expect=(200, 204)),
        look=Look(
            path="/serviceregistry",
            by="text",
            listed=(_STATUS.format("UP"),),
            withdrawn=(_STATUS.format("OUT_OF_SERVICE"),),
        ),
    ),
}
