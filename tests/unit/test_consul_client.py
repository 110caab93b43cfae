"""The calls that py-consul makes for us: where they go, with which token, and that they end."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deregister_agent.config.options import Secret
from deregister_agent.errors import RegistryError
from deregister_agent.model import Instance
from deregister_agent.registries.consul.operations import ConsulOperation
from deregister_agent.registries.consul.registry import Consul, Options, build
from tests.apps.pages import Pages, document, page, pages
from tests.servers.talking import talking, trickling

SERVICE = {"Service": "orders", "ID": "a/b c"}
TRAPS = {
    "CONSUL_HTTP_ADDR": "http://127.0.0.1:1",
    "CONSUL_HTTP_TOKEN": "of-the-environment",
    "CONSUL_HTTP_SSL": "true",
    "CONSUL_HTTP_SSL_VERIFY": "false",
    "HTTP_PROXY": "http://127.0.0.1:1",
}


def consul_says(target: str) -> bytes:
    """Answer as an agent that has the service, and whose catalog has nothing."""
    if target.startswith("/v1/agent/service/a"):
        return document(SERVICE)
    if target.startswith(("/v1/agent/checks", "/v1/agent/services")):
        return document({})
    return page("[]").replace(b"\r\n", b"\r\nX-Consul-Index: 7\r\n", 1)


def registry(url: str, folder: Path, **options: object) -> Consul:
    (folder / "token").write_text("configured")
    given = {"token": Secret(file=folder / "token"), "timeout": 1.0, "namespace": "shop"}
    return build(
        Options.model_validate({"kind": "consul", "url": url} | given | options),
        Instance("a/b c", "orders", "127.0.0.1", 80),
    )


def asked(server: Pages) -> list[str]:
    return [request.partition("\r\n")[0].removesuffix(" HTTP/1.1") for request in server.asked]


def test_every_call_has_the_configured_token_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the environment says of Consul wins over nothing; IDs are quoted, namespaces sent."""
    for name, value in TRAPS.items():
        monkeypatch.setenv(name, value)
    with pages(consul_says) as server:
        one = registry(server.url, tmp_path)
        one.snapshot()
        one.withdraw()
    for request in server.asked:
        assert "X-Consul-Token: configured\r\n" in request
        assert "of-the-environment" not in request
    assert "GET /v1/agent/checks?ns=shop" in asked(server)
    assert "GET /v1/agent/services?ns=shop&filter=Kind%20%3D%3D%20%22connect-proxy%22" in asked(
        server
    )
    assert "PUT /v1/agent/service/deregister/a%2Fb%20c?ns=shop" in asked(server)


def test_maintenance_is_switched_as_consul_reads_it(tmp_path: Path) -> None:
    """Its reason is sent whole."""
    with pages(consul_says) as server:
        with pytest.raises(RegistryError, match="does not list it yet"):
            registry(server.url, tmp_path, mode="maintenance").restore(None)
        with_reason = registry(server.url, tmp_path, mode="maintenance")
        with_reason.withdraw()
    target = "/v1/agent/service/maintenance/a%2Fb%20c?ns=shop&enable=True"
    assert f"PUT {target}&reason=withdrawn%20by%20deregister-agent" in asked(server)


Change = Callable[[ConsulOperation], object]


@pytest.mark.parametrize(
    "call",
    [
        ConsulOperation.deregister,
        ConsulOperation.checks,
        ConsulOperation.sidecars,
        lambda operation: operation.maintain(reason="x"),
    ],
)
def test_each_call_ends(call: Change, tmp_path: Path) -> None:
    """A server that sends a byte now and then holds no call of py-consul past its operation."""
    whole = page("{}" + " " * 1000)
    with talking(trickling(whole, 20)) as server:
        one = registry(f"http://127.0.0.1:{server.port}", tmp_path, timeout=0.3)
        begin = time.monotonic()
        with (
            pytest.raises(RegistryError, match="no answer within"),
            one._doing("call") as operation,
        ):
            call(operation)
        assert time.monotonic() - begin < len(whole) * 0.05 / 2


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        ("404 Not Found", 'Unknown service ID "a". Ensure that the service ID is passed', ""),
        ("500 Internal Server Error", 'Unknown service "a"', ""),
        ("404 Not Found", "<html>nothing here", "Consul answered 404"),
        ("500 Internal Server Error", "No cluster leader", "Consul answered 500"),
        ("301 Moved Permanently", "", "Consul answered 301"),
        ("403 Forbidden", "Permission denied", "its token needs"),
    ],
)
def test_only_a_service_that_is_unknown_need_not_be_deregistered(
    status: str, body: str, why: str, tmp_path: Path
) -> None:
    """py-consul makes False of a 404 of any kind; here only Consul's own words count."""
    with pages(lambda _: page(body, status=status)) as server:
        one = registry(server.url, tmp_path)
        if not why:
            with one._doing("deregister") as operation:
                operation.deregister()
            return
        with pytest.raises(RegistryError, match=why), one._doing("deregister") as operation:
            operation.deregister()


def test_a_page_is_no_list_of_checks(tmp_path: Path) -> None:
    """A portal that says 200 is an error of ours, and shows the beginning of the page only."""
    with pages(lambda _: page("<html>" + "x" * 5000, kind="text/html")) as server:
        one = registry(server.url, tmp_path)
        with (
            pytest.raises(RegistryError, match="not JSON") as caught,
            one._doing("read") as operation,
        ):
            operation.checks()
        assert len(str(caught.value)) < 300
