"""The grpc probe: against a real gRPC server, and against servers that tell nothing."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError

from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import ConfigError, ProbeError
from deregister_agent.model import Instance
from deregister_agent.ports import IdleProbe
from deregister_agent.probes.grpc import Options, build
from tests.apps.pages import Pages, page, pages
from tests.apps.running_grpc import GrpcApp
from tests.servers.certificates import make_certificates
from tests.servers.child import wait_until


def probe(port: int, **more: object) -> IdleProbe:
    table: dict[str, object] = {"kind": "grpc", "timeout": 10.0}
    options = Options.model_validate_json(json.dumps(table | more))
    return build(options, Instance("orders-1", "orders", "127.0.0.1", port))


class TestServer:
    def test_calls_held_open(self, tmp_path: Path) -> None:
        """Unary and streaming calls are told exactly, up and down to nothing."""
        with GrpcApp(tmp_path) as app:
            asked = probe(app.port)
            told = []
            for count in (0, 1, 4, 2, 0):
                app.tell(f"busy {count}")
                told.append(asked.read(0.0).in_flight["calls"])
            assert told == [0, 1, 4, 2, 0]

    def test_a_call_that_ends_by_itself(self, tmp_path: Path) -> None:
        """The read after the last call's end says that nothing is in flight."""
        with GrpcApp(tmp_path) as app:
            asked = probe(app.port)
            app.tell("busy 2")
            with ThreadPoolExecutor(1) as pool:
                ended = pool.submit(app.tell, "busy 0")
                wait_until(lambda: asked.read(0.0).idle, "it is idle")
                ended.result()
            assert asked.read(0.0).idle

    def test_a_restart_is_work_that_was_started(self, tmp_path: Path) -> None:
        """After a new start of the server the counter goes on, so no quiet window spans it."""
        with GrpcApp(tmp_path) as app:
            asked = probe(app.port)
            asked.read(0.0)
            before = asked.read(0.0).started
            app.tell("stop")
            with pytest.raises(ProbeError, match="UNAVAILABLE"):
                asked.read(0.0)
            app.tell("start")
            after = asked.read(0.0).started
            assert before is not None
            assert after is not None
            assert after > before

    def test_frozen(self, tmp_path: Path) -> None:
        """A server that hangs is not idle."""
        with GrpcApp(tmp_path) as app:
            app.freeze()
            with pytest.raises(ProbeError, match=r"no answer within 0\.5 s"):
                probe(app.port, timeout=0.5).read(0.0)

    def test_tls(self, tmp_path: Path) -> None:
        """With TLS, server and client prove who they are; a stranger is not believed."""
        make_certificates(tmp_path)
        files = {n: str(tmp_path / n) for n in ("server.key", "server.pem", "ca.pem", "other.pem")}
        own = {
            "certificate": str(tmp_path / "client.pem"),
            "certificate_key": str(tmp_path / "client.key"),
            "tls": True,
            "timeout": 5.0,
        }
        tls = (files["server.key"], files["server.pem"], files["ca.pem"])
        with GrpcApp(tmp_path, *tls) as app:
            assert probe(app.port, ca=files["ca.pem"], **own).read(0.0).idle
            for wrong in (own | {"ca": files["other.pem"]}, {"ca": files["ca.pem"], "tls": True}):
                with pytest.raises(ProbeError, match="UNAVAILABLE"):
                    probe(app.port, **wrong).read(0.0)
            with pytest.raises(ProbeError, match=r"No such file.*none\.pem"):
                probe(app.port, ca=str(tmp_path / "none.pem"), tls=True).read(0.0)


class TestService:
    """The option ``service``: whose calls these are."""

    def test_a_service_that_is_there(self, tmp_path: Path) -> None:
        """Serving or not, it is the app: an app that drains may say either."""
        with GrpcApp(tmp_path) as app:
            asked = probe(app.port, service="shop.Orders")
            for status, count in (("SERVING", 2), ("NOT_SERVING", 1), ("SERVING", 0)):
                app.tell(f"health shop.Orders {status}")
                app.tell(f"busy {count}")
                assert asked.read(0.0).in_flight == {"calls": count}

    def test_its_question_is_not_work(self, tmp_path: Path) -> None:
        """However often it is read, nothing has started; a call in between has."""
        with GrpcApp(tmp_path) as app:
            asked = probe(app.port, service="shop.Orders")
            assert len({asked.read(0.0).started for _ in range(20)}) == 1
            before = asked.read(0.0).started
            app.tell("serve")
            assert before is not None
            assert asked.read(0.0).started == before + 1

    @pytest.mark.parametrize("status", ["SERVICE_UNKNOWN", "UNKNOWN"])
    def test_a_service_of_which_it_says_nothing(self, status: str, tmp_path: Path) -> None:
        """A status that is no yes and no no leaves it unknown whose calls these are."""
        with GrpcApp(tmp_path) as app:
            app.tell(f"health shop.Orders {status}")
            with pytest.raises(ProbeError, match=f"says {status} of service 'shop.Orders'"):
                probe(app.port, service="shop.Orders").read(0.0)

    def test_another_server_at_the_port(self, tmp_path: Path) -> None:
        """An idle app that is not ours is not taken for ours."""
        with GrpcApp(tmp_path) as app:
            assert probe(app.port).read(0.0).idle
            with pytest.raises(ProbeError, match=r"does not know service 'stock\.Stock'"):
                probe(app.port, service="stock.Stock").read(0.0)

    def test_no_health_service(self) -> None:
        """Where nobody can say, it is not known, and the error says what to register."""
        said = server(1) + END
        with (
            saying(lambda _: said) as port,
            pytest.raises(ProbeError, match=r"no health service \(grpc\.health\.v1\): register it"),
        ):
            probe(port, service="shop.Orders").read(0.0)

    @pytest.mark.parametrize(
        ("said", "why"),
        [
            (b"", "says UNKNOWN"),
            (b"\x08\x07", "says 7 of service 'shop.Orders', which is no status"),
            (b"\x0a\x01x", "says UNKNOWN"),
            (b"\x08", "breaks off"),
            (b"<html>", "not of the kind"),
        ],
    )
    def test_a_health_service_that_says_something_else(self, said: bytes, why: str) -> None:
        """Whatever is not plainly a status is none."""
        channelz = server(1) + END
        with (
            saying(lambda _: channelz, lambda _: said) as port,
            pytest.raises(ProbeError) as caught,
        ):
            probe(port, service="shop.Orders").read(0.0)
        assert why in str(caught.value)

    def test_a_slow_health_service(self) -> None:
        """Both questions share one timeout."""
        over, channelz = threading.Event(), server(1) + END

        def wait(_: bytes) -> bytes:
            over.wait(20)
            return b"\x08\x01"

        with saying(lambda _: channelz, wait) as port:
            with pytest.raises(ProbeError, match=r"no answer within 0\.3 s"):
                probe(port, timeout=0.3, service="shop.Orders").read(0.0)
            over.set()

    def test_two_slow_answers(self) -> None:
        """Each question alone would be in time; the limit is for both together."""
        over, channelz = threading.Event(), server(1) + END

        def first(_: bytes) -> bytes:
            over.wait(1.5)
            return channelz

        def second(_: bytes) -> bytes:
            over.wait(1.5)
            return b"\x08\x01"

        with saying(first, second) as port:
            with pytest.raises(ProbeError, match=r"no answer within 2\.5 s"):
                probe(port, timeout=2.5, service="shop.Orders").read(0.0)
            over.set()

    def test_a_name_that_is_none(self) -> None:
        """Every server has a health as a whole: that would prove nothing."""
        with pytest.raises(ValidationError, match="service"):
            probe(80, service="")

    def test_a_long_name(self) -> None:
        """The name arrives as it was written, however long."""
        heard: list[bytes] = []
        name, channelz = "shop." + "Örders" * 40, server(1) + END

        def check(asked: bytes) -> bytes:
            heard.append(asked)
            return b"\x08\x01"

        with saying(lambda _: channelz, check) as port:
            probe(port, service=name).read(0.0)
        assert heard == [field(1, name.encode())]


def varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def field(number: int, value: int | bytes) -> bytes:
    """Write one field of a message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def server(*calls: int) -> bytes:
    """Write a server that has begun, ended well and ended badly so many calls."""
    data = b"".join(field(n, c) for n, c in enumerate(calls, 2) if c)
    return field(1, field(1, field(5, 7)) + field(2, data))


END = field(2, 1)
FAIL_CLOSED = {
    "empty": (b"", "only of some of its servers"),
    "more to come": (server(1), "only of some of its servers"),
    "no server": (END, "tells of no server"),
    "no data": (field(1, field(1, field(5, 7))) + END, "does not tell of the calls"),
    "two data": (field(1, field(2, b"") * 2) + END, "less than the baseline of 1"),
    "no calls": (server(0, 0, 0) + END, "less than the baseline of 1"),
    "own call not counted": (server(3, 3, 0) + END, "less than the baseline of 1"),
    "more ended than begun": (server(3, 2, 2) + END, "3 calls have begun, but 4 have ended"),
    "negative": (server(2**64 - 1, 0, 0) + END, "calls is -1, not a whole number"),
    "negative end": (server(2, 2**64 - 1, 0) + END, "calls is -1, not a whole number"),
    "hidden in another server": (server(9, 3, 4) + server(3, 4, 0) + END, "but 4 have ended"),
    "a negative without its sign": (server(2**32 + 3, 3, 0) + END, "calls is 4294967296, more"),
    "text": (field(1, field(2, field(2, b"one"))) + END, "less than the baseline of 1"),
    "server is a number": (field(1, 1) + END, "tells of no server"),
    "truncated": ((END + server(9, 1, 0))[:-1], "breaks off"),
    "truncated number": (END + b"\x80", "breaks off"),
    "html": (b"<html>0</html>", "not of the kind that was asked for"),
    "endless number": (END + b"\x08" + b"\xff" * 20, "not of the kind that was asked for"),
    "huge": (END + field(9, b"x" * 300_000), "RESOURCE_EXHAUSTED"),
}


Answer = Callable[[bytes], bytes]


@contextmanager
def saying(channelz: Answer, health: Answer | None = None) -> Iterator[int]:
    """Run a gRPC server which answers channelz, and checks, with these bytes; give its port."""
    running = grpc.server(ThreadPoolExecutor(2))
    offered("grpc.channelz.v1.Channelz", "GetServers", channelz, running)
    if health is not None:
        offered("grpc.health.v1.Health", "Check", health, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield port
    finally:
        running.stop(0).wait()


def offered(service: str, name: str, answer: Answer, running: grpc.Server) -> None:
    """Let a server answer one method with what *answer* returns."""
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        lambda asked, _: answer(asked)
    )
    handler = grpc.method_handlers_generic_handler(service, {name: method})
    running.add_generic_rpc_handlers((handler,))


class TestFailsClosed:
    @pytest.mark.parametrize("case", FAIL_CLOSED)
    def test_what_is_no_plain_count_is_not_known(self, case: str) -> None:
        """The error says what was there instead."""
        said, why = FAIL_CLOSED[case]
        with (
            saying(lambda _: said) as port,
            pytest.raises(ProbeError, match=r"^grpc: cannot tell what is in flight") as caught,
        ):
            probe(port).read(0.0)
        assert why in str(caught.value)

    def test_several_servers(self) -> None:
        """All servers of the process are added up, and fields nobody knows are passed over."""
        odd = b"\x7d1234" + b"\x7912345678" + field(15, b"new") + field(15, 3)
        said = odd + server(5, 3, 0) + server(0, 0, 0) + server(9, 1, 6) + END + odd
        with saying(lambda _: said) as port:
            assert probe(port).read(0.0).in_flight == {"calls": 3}

    def test_a_server_that_does_not_count_the_question(self) -> None:
        """Where the probe's own calls do not show, real ones could hide behind them."""
        with saying(lambda _: server(5, 4, 0) + END) as port:
            asked = probe(port)
            asked.read(0.0)
            with pytest.raises(ProbeError, match="rose by 0 since the last read, though each"):
                asked.read(0.0)

    def test_no_channelz(self) -> None:
        """A gRPC server without channelz tells nothing, and the error says what to do."""
        running = grpc.server(ThreadPoolExecutor(1))
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        try:
            with pytest.raises(ProbeError, match="does not offer channelz: register"):
                probe(port).read(0.0)
        finally:
            running.stop(0).wait()

    def test_an_error_of_the_server(self) -> None:
        """A server that fails is not idle."""

        def fail(_: bytes) -> bytes:
            raise ValueError("two\nlines")

        with saying(fail) as port, pytest.raises(ProbeError, match=r"UNKNOWN: .*two lines"):
            probe(port).read(0.0)

    def test_slow(self) -> None:
        """An answer that does not come in time is given up."""
        over = threading.Event()

        def wait(_: bytes) -> bytes:
            over.wait(20)
            return server(1) + END

        with saying(wait) as port:
            with pytest.raises(ProbeError, match=r"no answer within 0\.3 s"):
                probe(port, timeout=0.3).read(0.0)
            over.set()

    def test_no_grpc(self) -> None:
        """A web server, a server of another kind, or none at all, is not idle."""
        with pages(lambda _: page("<html>0</html>")) as web:
            self._unknown(web)
            web.said = b"220 mail.example ESMTP\r\n"
            self._unknown(web)
        (port,) = free_ports(1)
        with pytest.raises(ProbeError, match="UNAVAILABLE"):
            probe(port).read(0.0)
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            pytest.raises(ProbeError, match="no answer within"),
        ):
            probe(silent.getsockname()[1], timeout=0.3).read(0.0)

    def _unknown(self, web: Pages) -> None:
        with pytest.raises(ProbeError, match=r"UNAVAILABLE|no answer within"):
            probe(web.port, timeout=1.0).read(0.0)


@pytest.mark.parametrize("more", [{"ca": "/ca.pem"}, {"server_name": "a"}])
def test_contradictions(more: dict[str, object]) -> None:
    """Options that say nothing are refused."""
    with pytest.raises(ConfigError, match="say nothing without tls"):
        probe(80, **more)
