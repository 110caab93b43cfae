"""A cluster of which some members hang, fail or lie: one deadline, and no false answer."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deregister_agent.errors import AgentError, RegistryError
from tests.integration.etcd_stage import registry
from tests.servers.talking import Server as Frozen
from tests.servers.talking import hanging, talking

Reply = tuple[int, object]
Script = Callable[[str, dict[str, Any], str], Reply]
"""From path, payload and token to status and body."""

KEY = {"key": "cy8x", "value": "MTI3LjAuMC4xOjgwODA="}
OURS = {"kvs": [KEY], "count": "1", "header": {"revision": "5"}}
NO_LEADER = (503, {"code": 14, "message": "etcdserver: no leader"})


class Member:
    """A member that answers as its script says, and notes what it was asked."""

    def __init__(self, script: Script) -> None:
        member = self
        self.asked: list[str] = []

        class Answering(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                member.asked.append(self.path)
                status, reply = script(self.path, payload, self.headers.get("Authorization", ""))
                body = reply if isinstance(reply, bytes) else json.dumps(reply).encode() + b"\n"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def end(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


Make = Callable[[Script], Member]


@pytest.fixture
def member() -> Iterator[Make]:
    """Give a function that starts members, and end them all."""
    with ExitStack() as stack:

        def make(script: Script) -> Member:
            made = Member(script)
            stack.callback(made.end)
            return made

        yield make


@pytest.fixture
def frozen() -> Iterator[Frozen]:
    """Give a member that accepts connections and never answers."""
    with talking(hanging) as server:
        yield server


def url(server: Frozen) -> str:
    return f"http://127.0.0.1:{server.port}"


def always(reply: Reply) -> Script:
    return lambda path, payload, token: reply


def listed(*urls: str, **options: Any) -> bool:
    return registry(urls, 8080, **({"prefix": "s", "timeout": 5.0} | options)).lists()


def test_a_frozen_member_leaves_time_for_the_next(member: Make, frozen: Frozen) -> None:
    """Each endpoint has its share of the deadline; the one that answered is asked first then."""
    good = member(always((200, OURS)))
    one = registry([url(frozen), url(frozen), good.url], 8080, prefix="s", timeout=1.5)
    assert [one.lists() for _ in range(5)] == [True] * 5
    assert frozen.connections == 2


def test_when_all_are_frozen_it_ends(frozen: Frozen) -> None:
    """No answer from anybody is an error in time, with each one's reason."""
    with pytest.raises(RegistryError, match=r"no answer within .* s from 127\.0\.0\.1"):
        listed(url(frozen), url(frozen), timeout=0.4)


def test_a_key_that_changes_under_a_withdraw(member: Make) -> None:
    """When the app writes between read and delete, it is read and deleted again."""
    outcomes = [{"succeeded": True}, {}]
    there = [OURS, OURS]

    def script(path: str, payload: dict[str, Any], token: str) -> Reply:
        header = {"header": {"revision": "5"}}
        if path == "/v3/kv/txn":
            return 200, header | outcomes.pop()
        return 200, there.pop() if there else header

    one = member(script)
    registry([one.url], 8080, prefix="s").withdraw()
    assert one.asked.count("/v3/kv/txn") == 2
    assert not outcomes


def test_what_another_member_may_do_better(member: Make) -> None:
    """Without a leader, overloaded or with the gateway off: the next is asked."""
    good = member(always((200, OURS)))
    for reply in (NO_LEADER, (429, {"message": "etcdserver: too many requests"}), (404, b"no\n")):
        assert listed(member(always(reply)).url, good.url)


def test_a_refusal_is_the_same_everywhere(member: Make) -> None:
    """What etcd refuses is not asked of the others."""
    refusing = member(always((403, {"code": 7, "message": "etcdserver: permission denied"})))
    other = member(always((200, OURS)))
    with pytest.raises(RegistryError, match="permission denied"):
        listed(refusing.url, other.url)
    assert other.asked == []


def test_an_older_gateway(member: Make) -> None:
    """Where the gateway has an older path, that is found and kept."""

    def script(path: str, payload: dict[str, Any], token: str) -> Reply:
        return (200, OURS) if path.startswith("/v3beta/") else (404, b"404 page not found\n")

    old = member(script)
    one = registry([old.url], 8080, prefix="s")
    assert one.lists()
    assert one.lists()
    assert old.asked == ["/v3/kv/range", "/v3beta/kv/range", "/v3beta/kv/range"]


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((200, b"<html>portal</html>"), "not JSON"),
        ((200, []), "not one of etcd's"),
        ((200, {"kvs": [{"value": "x"}]}), "not one of etcd's"),
        ((200, {}), "not one of etcd's"),
        ((200, {"kvs": [], "header": {}}), "not one of etcd's"),
        ((200, {"kvs": [], "header": {"revision": "0"}}), "not one of etcd's"),
        ((200, {"count": "2", "header": {"revision": "5"}}), "not all keys are in it"),
        ((302, b""), "etcd answered: 302"),
        ((404, b"404 page not found\n"), "no JSON gateway"),
    ],
)
def test_what_is_no_answer_of_etcd(member: Make, reply: Reply, why: str) -> None:
    """A portal, a proxy or another server does not say that the instance is out."""
    with pytest.raises(RegistryError, match=why):
        listed(member(always(reply)).url)


class Guarded:
    """A script that wants a token; ``valid`` is the one that holds."""

    def __init__(self) -> None:
        self.valid, self.logins = "", 0

    def __call__(self, path: str, payload: dict[str, Any], token: str) -> Reply:
        if path == "/v3/auth/authenticate":
            assert payload == {"name": "me", "password": "geheim"}
            self.logins += 1
            if self.valid != "never":
                self.valid = f"token-{self.logins}"
            return 200, {"token": f"token-{self.logins}"}
        if token != self.valid:
            return 401, {"code": 16, "message": "etcdserver: invalid auth token"}
        return 200, OURS


def test_a_token_is_kept_until_it_does_not_hold(
    member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One login serves many calls; a new one is made once when the token has expired."""
    monkeypatch.setenv("PASSWORD_OF_ETCD", "geheim")
    script = Guarded()
    one = registry(
        [member(script).url], 8080, prefix="s", user="me", password={"env": "PASSWORD_OF_ETCD"}
    )
    assert [one.lists() for _ in range(3)] == [True] * 3
    assert script.logins == 1
    script.valid = "another"
    assert one.lists()
    assert script.logins == 2
    script.valid = "never"
    with pytest.raises(RegistryError, match="invalid auth token") as caught:
        one.lists()
    assert script.logins == 3
    assert "geheim" not in str(caught.value)


def _lines(*messages: object) -> bytes:
    return b"".join(json.dumps(message).encode() + b"\n" for message in messages)


CREATED = {"result": {"header": {"revision": "7"}, "created": True}}


def test_a_watch_that_breaks_off_goes_on_elsewhere(member: Make) -> None:
    """A member that stops, or has lost its leader, ends the watch; another has the event."""
    event = {"kv": KEY | {"mod_revision": "9", "create_revision": "9"}}
    told = {"result": {"header": {"revision": "9"}, "events": [event]}}
    good = member(always((200, _lines(CREATED, told))))
    no_leader = {"error": {"code": 14, "message": "etcdserver: no leader"}}
    cancelled = {"result": {"canceled": True, "cancel_reason": "etcdserver: no leader"}}
    for broken in (_lines(CREATED), _lines(CREATED, no_leader), _lines(CREATED, cancelled)):
        bad = member(always((200, broken)))
        one = registry([bad.url, good.url], 8080, prefix="s")
        assert one.watch("5", 60) == "9"
        alone = registry([bad.url], 8080, prefix="s")
        with pytest.raises(AgentError, match="cannot watch"):
            alone.watch("5", 60)


def test_a_change_of_which_nobody_knows_what_was_before(member: Make) -> None:
    """A deleted key whose past is compacted away may have been ours; one known as another's not."""
    gone = {"type": "DELETE", "kv": {"key": "cy95", "mod_revision": "9"}}
    anothers = gone | {"prev_kv": {"key": "cy95", "value": "MTI3LjAuMC4xOjE="}}
    for event, woken in ((anothers, False), (gone, True)):
        told = {"result": {"header": {"revision": "9"}, "events": [event]}}
        one = registry([member(always((200, _lines(CREATED, told)))).url], 8080, prefix="s")
        if woken:
            assert one.watch("5", 60) == "9"
        else:  # it goes on, and finds the end of the stream
            with pytest.raises(RegistryError, match="has ended the watch"):
                one.watch("5", 60)
