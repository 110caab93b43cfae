"""The redis_stream probe: against a real Redis, and against servers that tell nothing."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis as client
from pydantic import ValidationError

from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.model import Instance, Reading
from deregister_agent.probes.redis_stream.probe import Options, RedisStreamProbe, build
from tests.servers.certificates import make_certificates
from tests.servers.child import wait_until
from tests.servers.redis import Redis


def probe(url: str, **more: object) -> RedisStreamProbe:
    table: dict[str, object] = {"kind": "redis_stream", "url": url, "timeout": 10.0}
    table |= {"streams": ["orders"], "group": "shop", "consumer": "web-1"}
    options = Options.model_validate_json(json.dumps(table | more))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", 80))


@pytest.fixture
def stream(redis: Redis) -> Redis:
    """Redis with a group of which web-1 and two others are consumers."""
    redis.call("FLUSHALL")
    redis.call("XGROUP", "CREATE", "orders", "shop", "$", "MKSTREAM")
    for name in ("web-1", "web-2", "other"):
        redis.call("XGROUP", "CREATECONSUMER", "orders", "shop", name)
    return redis


def deliver(redis: Redis, consumer: str, stream: str = "orders") -> None:
    redis.call("XADD", stream, "*", "n", "1")
    redis.call("XREADGROUP", "GROUP", "shop", consumer, "STREAMS", stream, ">")


class TestRedis:
    def test_a_consumer_at_work(self, stream: Redis) -> None:
        """What a real consumer works on is told, up and down to nothing."""
        release, taken = threading.Event(), threading.Semaphore(0)

        def consume() -> None:
            with client.Redis(port=stream.port, protocol=2) as mine:
                for _ in range(3):
                    answer = mine.xreadgroup("shop", "web-1", {"orders": ">"}, 1, block=20_000)
                    ((_, ((entry, _),)),) = answer
                    entries.append(entry)
                    taken.release()
                release.wait(20)
                mine.xack("orders", "shop", *entries)

        entries: list[bytes] = []
        asked = probe(stream.url)
        assert asked.read(0.0) == Reading({"messages": 0})
        worker = threading.Thread(target=consume)
        worker.start()
        try:
            for _ in range(3):
                stream.call("XADD", "orders", "*", "n", "1")
                assert taken.acquire(timeout=20)
            assert asked.read(0.0) == Reading({"messages": 3})
        finally:
            release.set()
            worker.join()
        assert asked.read(0.0) == Reading({"messages": 0})

    def test_only_its_own(self, stream: Redis) -> None:
        """Entries of other consumers, and entries that nobody has, do not count."""
        deliver(stream, "web-2")
        deliver(stream, "other")
        stream.call("XADD", "orders", "*", "n", "1")
        assert probe(stream.url).read(0.0).idle

    def test_several_consumers_and_streams(self, stream: Redis) -> None:
        """With a star in the name, and with several streams, all are added up."""
        stream.call("XGROUP", "CREATE", "bills", "shop", "$", "MKSTREAM")
        for consumer, name in (("web-1", "orders"), ("web-2", "orders"), ("web-1", "bills")):
            deliver(stream, consumer, name)
        deliver(stream, "other")
        both = probe(stream.url, consumer="web-*", streams=["orders", "bills"])
        assert both.read(0.0) == Reading({"messages": 3})

    def test_names_are_taken_as_they_are(self, stream: Redis) -> None:
        """Nothing but a star has a meaning in the name of a consumer."""
        deliver(stream, "web[1]?-a")
        assert probe(stream.url, consumer="web[1]?*").read(0.0) == Reading({"messages": 1})
        with pytest.raises(ProbeError, match="has no consumer web-\\?"):
            probe(stream.url, consumer="web-?").read(0.0)

    def test_a_consumer_that_is_not_there(self, stream: Redis) -> None:
        """It is unknown, unless absent says otherwise; a group that is not there always is."""
        with pytest.raises(ProbeError, match="has no consumer web-9, but other, web-1, web-2"):
            probe(stream.url, consumer="web-9").read(0.0)
        assert probe(stream.url, consumer="web-9", absent="zero").read(0.0).idle
        with pytest.raises(ProbeError, match="NOGROUP"):
            probe(stream.url, group="none", absent="zero").read(0.0)
        with pytest.raises(ProbeError, match="no such key"):
            probe(stream.url, streams=["orders", "none"], absent="zero").read(0.0)

    def test_no_stream(self, stream: Redis) -> None:
        """A key that is no stream tells nothing."""
        stream.call("SET", "text", "0")
        with pytest.raises(ProbeError, match="WRONGTYPE"):
            probe(stream.url, streams=["text"]).read(0.0)

    def test_databases(self, stream: Redis) -> None:
        """The number in the URL says which database is meant."""
        deliver(stream, "web-1")
        assert probe(f"{stream.url}/0").read(0.0).in_flight == {"messages": 1}
        with pytest.raises(ProbeError, match="no such key"):
            probe(f"{stream.url}/1").read(0.0)
        with pytest.raises(ProbeError, match="SELECT: ERR"):
            probe(f"{stream.url}/99").read(0.0)

    def test_a_unix_socket(self, stream: Redis) -> None:
        """Redis is also asked through its socket file."""
        deliver(stream, "web-1")
        assert probe(f"unix://{stream.socket}").read(0.0).in_flight == {"messages": 1}

    def test_frozen_and_gone(self, tmp_path: Path) -> None:
        """A Redis that hangs, or is not there, is not idle."""
        with Redis(tmp_path) as redis:
            redis.stop()
            with pytest.raises(ProbeError, match=r"no answer within 0\.5 s"):
                probe(redis.url, timeout=0.5).read(0.0)
            redis.kill()
            with pytest.raises(ProbeError, match="Connection refused"):
                probe(redis.url).read(0.0)

    def test_a_replica_is_not_believed(self, stream: Redis, tmp_path: Path) -> None:
        """What a replica says may be old."""
        with Redis(tmp_path, f"replicaof 127.0.0.1 {stream.port}") as replica:
            wait_until(lambda: replica.call("EXISTS", "orders") == 1, "it has a copy")
            with pytest.raises(ProbeError, match="no master but a 'replica', which may be behind"):
                probe(replica.url).read(0.0)

    def test_users_and_passwords(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user who may do no more than this is enough; the password is never shown."""
        monkeypatch.setenv("RIGHT", "s3cret")
        monkeypatch.setenv("WRONG", "wr0ng")
        right, wrong = {"env": "RIGHT"}, {"env": "WRONG"}
        acl = "user probe on >s3cret ~orders resetchannels -@all +xinfo|consumers +hello"
        with Redis(tmp_path, acl, "user default on nopass ~* +@all") as redis:
            redis.call("XGROUP", "CREATE", "orders", "shop", "$", "MKSTREAM")
            deliver(redis, "web-1")
            redis.call("CONFIG", "SET", "requirepass", "0ther")
            told = probe(redis.url, user="probe", password=right).read(0.0)
            assert told.in_flight == {"messages": 1}
            with pytest.raises(ProbeError, match="AUTH: WRONGPASS") as caught:
                probe(redis.url, user="probe", password=wrong).read(0.0)
            assert "wr0ng" not in str(caught.value)
            with pytest.raises(ProbeError, match="NOPERM"):
                probe(redis.url, user="probe", password=right, streams=["bills"]).read(0.0)
            with pytest.raises(ProbeError, match="NOAUTH"):
                probe(redis.url).read(0.0)

    def test_tls(self, tmp_path: Path) -> None:
        """With TLS, server and client prove who they are; a stranger is not believed."""
        make_certificates(tmp_path)
        (port,) = free_ports(1)
        lines = [f"tls-port {port}", "tls-cert-file server.pem", "tls-key-file server.key"]
        with Redis(tmp_path, *lines, "tls-ca-cert-file ca.pem") as redis:
            redis.call("XGROUP", "CREATE", "orders", "shop", "$", "MKSTREAM")
            deliver(redis, "web-1")
            url = f"rediss://127.0.0.1:{port}"
            files = {n: str(tmp_path / n) for n in ("ca.pem", "client.pem", "client.key")}
            own = {"certificate": files["client.pem"], "certificate_key": files["client.key"]}
            assert probe(url, ca=files["ca.pem"], **own).read(0.0).in_flight == {"messages": 1}
            with pytest.raises(ProbeError, match="TLS failed"):
                probe(url, ca=str(tmp_path / "other.pem"), **own).read(0.0)
            with pytest.raises(ProbeError):
                probe(url, ca=files["ca.pem"]).read(0.0)
            with pytest.raises(ProbeError, match=r"No such file.*none\.pem"):
                probe(url, ca=str(tmp_path / "none.pem")).read(0.0)


HELLO = b"*2\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
CONSUMER = HELLO + b"*1\r\n*4\r\n$4\r\nname\r\n$5\r\nweb-1\r\n$7\r\npending\r\n"
FAIL_CLOSED = {
    "no answer": (b"", "breaks off"),
    "http": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak the protocol"),
    "html": (b"<html>0</html>\r\n", "does not speak the protocol"),
    "no end of line": (b"+" * 200_000, "does not speak the protocol"),
    "negative": (CONSUMER + b":-1\r\n", "pending is -1"),
    "nan": (CONSUMER + b"$3\r\nNaN\r\n", "pending is 'NaN'"),
    "no number": (CONSUMER + b":zero\r\n", "does not speak the protocol"),
    "missing": (HELLO + b"*1\r\n*2\r\n$4\r\nname\r\n$5\r\nweb-1\r\n", "pending is None"),
    "null": (CONSUMER + b"$-1\r\n", "pending is None"),
    "broken off": (CONSUMER, "breaks off"),
    "odd": (HELLO + b"*1\r\n*1\r\n$4\r\nname\r\n", "where names and values were expected"),
    "not a list": (HELLO + b":0\r\n", "XINFO CONSUMERS orders shop: 0"),
    "no consumers": (HELLO + b"*0\r\n", "has no consumer web-1, but none"),
    "loading": (b"-LOADING in memory\r\n" * 2, "LOADING in memory"),
    "no role": (b"*0\r\n*0\r\n", "no master but a None"),
    "huge text": (HELLO + b"$9999999999\r\n", "too large"),
    "huge": (HELLO + b"*9\r\n" + (b"$300000\r\n" + b"x" * 300_000 + b"\r\n") * 9, "too large"),
    "huge list": (HELLO + b"*99999999\r\n" + b":1\r\n" * 1_200_000, "too large"),
    "nested": (HELLO + b"*1\r\n" * 100_000, "does not speak the protocol"),
}


@contextmanager
def saying(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server which does that with one connection, and give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError), listener.accept()[0] as one:
                one.settimeout(20)
                one.recv(65536)
                talk(one)
                one.shutdown(socket.SHUT_WR)
                one.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


class TestFailsClosed:
    @pytest.mark.parametrize("case", FAIL_CLOSED)
    def test_what_is_no_plain_count_is_not_known(self, case: str) -> None:
        """The error says what was there instead."""
        said, why = FAIL_CLOSED[case]
        with (
            saying(lambda one: one.sendall(said)) as url,
            pytest.raises(ProbeError, match=r"^redis_stream: cannot tell what web-1") as caught,
        ):
            probe(url).read(0.0)
        assert why in str(caught.value)

    def test_slow(self) -> None:
        """An answer that comes byte by byte is given up when the whole time is over."""
        over, said = threading.Event(), list[int]()

        def trickle(one: socket.socket) -> None:
            for byte in CONSUMER + b":0\r\n":
                one.sendall(bytes([byte]))
                said.append(byte)
                if over.wait(0.2):
                    return

        with saying(trickle) as url:
            with pytest.raises(ProbeError, match=r"no answer within 1 s"):
                probe(url, timeout=1.0).read(0.0)
            over.set()
        assert 1 < len(said) < len(CONSUMER)

    def test_a_name_that_nobody_resolves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The name look-up is part of the limit, though the resolver has none."""
        over, asked = threading.Event(), list[object]()
        resolve = socket.getaddrinfo

        def hang(host: str, port: int, *more: Any, **others: Any) -> Any:
            if host == "redis.example" and not others.get("flags"):
                asked.append(host)
                over.wait(20)
                raise socket.gaierror(socket.EAI_AGAIN, "nobody knows")
            return resolve(host, port, *more, **others)

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        try:
            with pytest.raises(ProbeError, match=r"no answer within 0\.3 s"):
                probe("redis://redis.example", timeout=0.3).read(0.0)
            assert asked
            assert not over.is_set()
        finally:
            over.set()


class TestOptions:
    @pytest.mark.parametrize(
        "url",
        ["http://a", "redis://", "redis://u:p@a", "redis://a/x", "redis://a:0x", "unix://a/b", "a"],
    )
    def test_urls_that_are_refused(self, url: str) -> None:
        """Only a URL of Redis without secrets will do."""
        with pytest.raises(ValidationError):
            probe(url)

    @pytest.mark.parametrize("more", [{"user": "a"}, {"ca": "/ca.pem"}])
    def test_contradictions(self, more: dict[str, object]) -> None:
        """Options that say nothing are refused, key first."""
        with pytest.raises(ConfigError, match=rf"{next(iter(more))}.*: says? nothing"):
            probe("redis://127.0.0.1", **more)
