"""
What to send to well-known systems, and how to read their answers: presets of ``http``.

Each was written from the documentation or the source that stands beside it; those that
were never run on the real product are unproven, and check-config says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from deregister_agent.registries.http.requests import ReadBack, Request

PresetName = Literal[
    "app",
    "dubbo",
    "envoy",
    "eureka",
    "nacos",
    "nacos3",
    "nginx_plus",
    "spring_bindings",
]


@dataclass(frozen=True, slots=True)
class HttpPreset:
    """The three requests, and the variables that have a usual value."""

    withdraw: Request
    restore: Request
    look: ReadBack
    variables: Mapping[str, str] = field(default_factory=dict)
    proven: bool = False  # the tests run it on the real product


_JSON = {"Accept": "application/json"}
_ENTRY = "serviceName={service}&groupName={group}&namespaceId={namespace}&clusterName={cluster}"
# An update replaces weight and metadata, and a wrong ephemeral makes a second instance that
# nobody can delete (alibaba/nacos issue 2003): so what is there is sent back.
_UPDATE = (
    f"?{_ENTRY}&ip={{address}}&port={{port}}"
    "&ephemeral={ephemeral}&weight={weight}&metadata={metadata}&enabled="
)
_NACOS_KEPT = {"ephemeral": "/ephemeral", "weight": "/weight", "metadata": "/metadata"}
_NACOS_USUAL = {"group": "DEFAULT_GROUP", "namespace": "public", "cluster": "DEFAULT"}
_STATE = r'(?i)"state"\s*:\s*"({})"'
# Eureka: an app that is DOWN, or that calls itself OUT_OF_SERVICE, comes back by itself; only
# the override holds. DOWN and STARTING go before it, and are no listing either.
_NO_OVERRIDE = r'"overridden[sS]tatus"\s*:\s*"(?!OUT_OF_SERVICE")'
_OVERRIDE = r'"overridden[sS]tatus"\s*:\s*"OUT_OF_SERVICE"'


def _nacos(instance: str, look: str, entries: str, done: str) -> "HttpPreset":
    """Return the preset for one version of Nacos: where its APIs are, and how it says "done"."""
    return HttpPreset(
        withdraw=Request(method="PUT", path=f"{instance}{_UPDATE}false", answer=done),
        restore=Request(method="PUT", path=f"{instance}{_UPDATE}true", answer=done),
        look=ReadBack(
            path=f"{look}?{_ENTRY}&pageNo=1&pageSize=10000",
            entries=entries,
            where={"/ip": "{address}", "/port": "{port}"},
            pointer="/enabled",
            listed=(True,),
            withdrawn=(False,),
            keep=_NACOS_KEPT,
        ),
        variables=_NACOS_USUAL,
    )


PRESETS: Mapping[PresetName, HttpPreset] = {
    # docs/reference/app.md: 200 once the hooks of every process have returned.
    "app": HttpPreset(
        withdraw=Request(path="/stop"),
        restore=Request(path="/start"),
        look=ReadBack(pointer="/stopped", listed=(False,), withdrawn=(True,)),
        proven=True,
    ),
    # dubbo.apache.org, QoS: one table row for each service, Y or N in its last column, or
    # "registry-A(Y)" since 3.0.
    "dubbo": HttpPreset(
        withdraw=Request(method="GET", path="/offline", answer="OK"),
        restore=Request(method="GET", path="/online", answer="OK"),
        look=ReadBack(
            path="/ls",
            by="text",
            listed=(r"\(Y\)", r"\|\s*Y\s*\|"),
            withdrawn=(r"\(N\)", r"\|\s*N\s*\|"),
        ),
    ),
    # envoyproxy.io, "Administration interface": ServerInfo.state is DRAINING while failed.
    "envoy": HttpPreset(
        withdraw=Request(path="/healthcheck/fail"),
        restore=Request(path="/healthcheck/ok"),
        look=ReadBack(
            path="/server_info", pointer="/state", listed=("LIVE",), withdrawn=("DRAINING",)
        ),
        proven=True,
    ),
    # Netflix/eureka: wiki, "Eureka REST operations"; InstanceResource, which reads past the
    # response cache; and EurekaJacksonCodec, which writes status and override side by side.
    "eureka": HttpPreset(
        withdraw=Request(method="PUT", path="/apps/{app}/{id}/status?value=OUT_OF_SERVICE"),
        restore=Request(method="DELETE", path="/apps/{app}/{id}/status?value=UP"),
        look=ReadBack(
            path="/apps/{app}/{id}",
            headers=_JSON,
            by="text",
            listed=(r'"status"\s*:\s*"(?:UP|UNKNOWN)"\s*,\s*"overridden', _NO_OVERRIDE),
            withdrawn=(rf'"status"\s*:\s*"\w+"\s*,\s*{_OVERRIDE}',),
            absent=(404,),
        ),
    ),
    # nacos.io, "Open API"; the list of the console, as the other one leaves out the disabled.
    "nacos": _nacos("/v1/ns/instance", "/v1/ns/catalog/instances", "/list", "^ok"),
    # alibaba/nacos 3.1, InstanceControllerV3: version 3 has switched the API above off.
    "nacos3": _nacos(
        "/v3/admin/ns/instance", "/v3/admin/ns/instance/list", "/data", r'"data"\s*:\s*"ok"'
    ),
    # nginx.org, ngx_http_api_module: PATCH of a server in an upstream with a zone.
    "nginx_plus": HttpPreset(
        withdraw=Request(
            method="PATCH", path="/http/upstreams/{upstream}/servers/{id}", payload={"down": True}
        ),
        restore=Request(
            method="PATCH", path="/http/upstreams/{upstream}/servers/{id}", payload={"down": False}
        ),
        look=ReadBack(
            path="/http/upstreams/{upstream}/servers",
            entries="",
            where={"/server": "{host}:{port}"},
            pointer="/down",
            listed=(False,),
            withdrawn=(True,),
            keep={"id": "/id"},
        ),
    ),
    # docs.spring.io, Spring Cloud Stream, "Binding visualization and control".
    "spring_bindings": HttpPreset(
        withdraw=Request(
            path="/bindings/{binding}", payload={"state": "{stop}"}, expect=(200, 204)
        ),
        restore=Request(
            path="/bindings/{binding}", payload={"state": "{start}"}, expect=(200, 204)
        ),
        look=ReadBack(
            path="/bindings/{binding}",
            by="text",
            listed=(_STATE.format("running|started|resumed"),),
            withdrawn=(_STATE.format("stopped|paused"),),
        ),
        variables={"stop": "STOPPED", "start": "STARTED"},
    ),
}
