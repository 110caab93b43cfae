"""A server that sends back what it was sent: no secret of ours is shown by that."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.config.backends import find
from deregister_agent.errors import AgentError, excerpt, hide_secret, masked
from deregister_agent.model import Announcement, Event, Instance
from tests.integration.presence_stage import Host, listed_host
from tests.loops import eventually

ORDERS = Instance("orders-1", "orders", "127.0.0.1", 8080)
SECRETS = {
    "plain": "s3cr3t-0f-0urs-plain",
    "with quotes": 'quo"ted\\s3cr3t',
    "with a slash": "s3cr3t/with+signs=&more",
    "not ASCII": "gehëim-s3cr3t",
}


CARRIERS = ("Authorization", "X-Consul-Token", "X-Token")


class _Echo(BaseHTTPRequestHandler):
    """Refuses everything, and shows back what it was sent, what may hold a secret first."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        sent = [self.headers[name] for name in CARRIERS if name in self.headers]
        said = f"{' '.join(sent)} {body.decode(errors='replace')} {dict(self.headers)} {body!r}"
        text = json.dumps({"error": said, "message": said, "code": 7}) if self.as_json else said
        self.send_response_only(403)
        self.send_header("Content-Type", "application/json" if self.as_json else "text/plain")
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    as_json = False
    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing."""


class _JsonEcho(_Echo):
    as_json = True


@contextmanager
def echo(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run such a server; yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def registry(kind: str, **table: Any) -> Callable[[], object]:
    module = find("registries", kind)
    options = module.Options.model_validate_json(json.dumps({"kind": kind, **table}))
    return module.build(options, ORDERS).look  # type: ignore[no-any-return]


def probe(kind: str, **table: Any) -> Callable[[], object]:
    module = find("probes", kind)
    options = module.Options.model_validate_json(json.dumps({"kind": kind, **table}))
    built = module.build(options, ORDERS)
    return lambda: built.read(0.0)


def webhook(**table: Any) -> Callable[[], object]:
    module = find("notifiers", "webhook")
    options = module.Options.model_validate_json(json.dumps({"kind": "webhook", **table}))
    built = module.build(options, ORDERS)
    event = Event("1", Announcement.DRAINED, ORDERS, "drain-1", 0.0)
    return lambda: built.announce(event)


LOOK = {"path": "/x", "pointer": "/listed", "listed": ["yes"], "withdrawn": ["no"]}
POST = {"path": "/y"}
KINDS = ("consul", "etcd", "http", "http_json", "rabbitmq", "webhook")


def calls(url: str, secret: dict[str, str]) -> dict[str, Callable[[], object]]:
    """Return a call of each kind of backend that sends a secret."""
    return {
        "consul": registry("consul", url=url, token=secret),
        "etcd": registry("etcd", endpoints=[url], user="root", password=secret, key="/orders/1"),
        "http": registry("http", url=url, token=secret, look=LOOK, withdraw=POST, restore=POST),
        "http_json": probe("http_json", url=url, token=secret, in_flight={"requests": "/n"}),
        "rabbitmq": probe("rabbitmq", url=url, user="guest", password=secret),
        "webhook": webhook(url=url, secret={"env": "SIGNING_SECRET"}, headers={"X-Token": secret}),
    }


@pytest.fixture(params=SECRETS)
def secret(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """Give a secret, and where it stands."""
    value = SECRETS[request.param]
    (tmp_path / "secret").write_text(value)
    return value, {"file": str(tmp_path / "secret")}


@pytest.mark.parametrize("handler", [_Echo, _JsonEcho])
@pytest.mark.parametrize("kind", KINDS)
def test_no_error_of_a_backend_has_it(
    kind: str,
    handler: type[BaseHTTPRequestHandler],
    secret: tuple[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In no spelling that the server may give it."""
    _, where = secret
    monkeypatch.setenv("SIGNING_SECRET", "whsec_c2lnbmluZy1zM2NyM3Q=")
    with echo(handler) as url:
        call = calls(url, where)[kind]
        with pytest.raises(AgentError) as caught:
            call()
    said = str(caught.value)
    assert "s3cr3t" not in said
    assert "(secret)" in said or "cannot be sent" in said  # no header holds what is not ASCII


def test_status_log_and_history_of_an_agent_have_it_nowhere(tmp_path: Path) -> None:
    """Though the registry that echoes it is asked again and again, in a drain as well."""
    value = SECRETS["plain"]
    (tmp_path / "secret").write_text(value)
    with echo(_Echo) as url:
        consul = f'kind = "consul"\nurl = "{url}"\ntoken = {{ file = "{tmp_path}/secret" }}'
        with listed_host(tmp_path, consul) as host:
            shown = all_shown(host) + (tmp_path / "journal.db").read_bytes().decode("latin-1")
    assert "(secret)" in shown
    assert value not in shown


def all_shown(host: Host) -> str:
    """Return what an agent shows of a drain whose registry refuses everything."""
    with host.agent():
        eventually(lambda: "403" in str(host.get("orders-1").body), "the refusal")
        host.post("orders-1", "stop-traffic")
        eventually(lambda: "403" in str(host.get("orders-1").body["blocking"]), "why it waits")
        shown = str(host.get("orders-1").body) + json.dumps(host.last("orders-1"))
        doctor = host.run("doctor", "orders-1")
    return shown + host.log() + doctor.stdout + doctor.stderr


def test_what_is_short_is_left_alone() -> None:
    """Three letters stand in too many words to be hidden."""
    hide_secret("ist")
    assert masked("registry") == "registry"


def test_what_is_cut_off_shows_no_part_of_it() -> None:
    """A secret at the very edge of what is shown."""
    hide_secret("0123456789abcdef-edge")
    for before in range(70):
        said = excerpt("x" * before + "0123456789abcdef-edge" + "y" * 300)
        assert "0123" not in said
    token = "".join(f"{number:04d}." for number in range(400))
    hide_secret(token)
    said = excerpt(token * 10)
    assert not any(f"{number:04d}" in said for number in range(400))


def test_secrets_of_one_that_is_renewed_are_not_kept_for_ever() -> None:
    """Nor does any number of them make it slow."""
    for number in range(1000):
        hide_secret(f"renewed-{number:06d}")
    assert masked("it was renewed-000999") == "it was (secret)"
    assert "renewed-000001" in masked("it was renewed-000001")
