"""Readiness: an HTTP status, or what a real gRPC server's health service says."""

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError

from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import ProbeError
from deregister_agent.probes.ready_check import ReadyOptions, UrlReadyCheck
from tests.apps.pages import page, pages
from tests.apps.running_grpc import GrpcApp
from tests.servers.certificates import make_certificates


def check(url: str, **more: object) -> UrlReadyCheck:
    """Return a check as the configuration describes it."""
    table = {"url": url, "timeout": 10.0} | more
    return UrlReadyCheck(ReadyOptions.model_validate_json(json.dumps(table)))


class TestHttp:
    def test_the_status_decides(self) -> None:
        """One status means ready, and no other."""
        with pages(lambda _: page("", status="204 No Content")) as app:
            check(f"{app.url}/ready", status=204).ask()
            with pytest.raises(ProbeError, match="it answered 204, not 200"):
                check(f"{app.url}/ready").ask()

    @pytest.mark.parametrize("path", ["/ready/", "/ready?full=1", "/", "/a%2Fb"])
    def test_the_url_is_asked_as_it_stands(self, path: str) -> None:
        """Neither a slash at its end nor a query is lost."""
        with pages(lambda _: page("")) as app:
            check(app.url + path).ask()
            assert [asked.split()[1] for asked in app.asked] == [path]

    def test_nobody_there(self) -> None:
        """An app that does not answer is not ready."""
        (port,) = free_ports(1)
        with pytest.raises(ProbeError, match="refused"):
            check(f"http://127.0.0.1:{port}/ready").ask()


class TestGrpc:
    def test_the_health_service_decides(self, tmp_path: Path) -> None:
        """Ready is SERVING, at each moment anew, for one service or for the whole server."""
        with GrpcApp(tmp_path) as app:
            one = check(f"grpc://127.0.0.1:{app.port}/shop.Orders")
            whole = [check(f"grpc://127.0.0.1:{app.port}{path}") for path in ("", "/")]
            for each in (one, *whole):
                each.ask()
            for status in ("NOT_SERVING", "UNKNOWN", "SERVICE_UNKNOWN"):
                app.tell(f"health shop.Orders {status}")
                with pytest.raises(ProbeError, match=f"health service says {status}, not SERVING"):
                    one.ask()
            whole[0].ask()
            app.tell("health shop.Orders SERVING")
            one.ask()

    def test_a_restart(self, tmp_path: Path) -> None:
        """While the server is away it is not ready; when it is back, it is at once."""
        with GrpcApp(tmp_path) as app:
            one = check(f"grpc://127.0.0.1:{app.port}/shop.Orders")
            app.tell("stop")
            with pytest.raises(ProbeError, match="UNAVAILABLE"):
                one.ask()
            app.tell("start")
            one.ask()

    def test_a_service_it_does_not_know(self, tmp_path: Path) -> None:
        """A name that is not there is not ready."""
        with (
            GrpcApp(tmp_path) as app,
            pytest.raises(ProbeError, match=r"does not know service 'shop\.Stock'"),
        ):
            check(f"grpc://127.0.0.1:{app.port}/shop.Stock").ask()

    def test_no_health_service(self) -> None:
        """A server that has none is not ready, and the error says what to register."""
        running = grpc.server(ThreadPoolExecutor(1))
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        try:
            with pytest.raises(ProbeError, match=r"no health service \(grpc.health.v1\)"):
                check(f"grpc://127.0.0.1:{port}").ask()
        finally:
            running.stop(0).wait()

    def test_frozen_and_silent(self, tmp_path: Path) -> None:
        """A server that hangs is given up in time."""
        with GrpcApp(tmp_path) as app:
            app.freeze()
            with pytest.raises(ProbeError, match=r"no answer within 0\.5 s"):
                check(f"grpc://127.0.0.1:{app.port}", timeout=0.5).ask()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            with pytest.raises(ProbeError, match="no answer within"):
                check(f"grpc://127.0.0.1:{port}", timeout=0.3).ask()

    def test_not_grpc(self) -> None:
        """A web server is not ready, whatever it says."""
        with (
            pages(lambda _: page("SERVING")) as web,
            pytest.raises(ProbeError, match=r"UNAVAILABLE|no answer within"),
        ):
            check(f"grpc://127.0.0.1:{web.port}", timeout=1.0).ask()

    def test_a_socket_file(self, tmp_path: Path) -> None:
        """A server on a socket file is asked like one on a port."""
        running = grpc.server(ThreadPoolExecutor(1))
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            lambda asked, _: b"\x08\x01" if asked == b"\x0a\x03a/b" else b"\x08\x02"
        )
        health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
        running.add_generic_rpc_handlers((health,))
        running.add_insecure_port(f"unix:{tmp_path}/app.sock")
        running.start()
        try:
            url = f"grpc+unix://{str(tmp_path).replace('/', '%2F')}%2Fapp.sock"
            check(f"{url}/a%2Fb").ask()
            for other in ("", "/other"):
                with pytest.raises(ProbeError, match="NOT_SERVING"):
                    check(f"{url}{other}").ask()
        finally:
            running.stop(0).wait()

    def test_tls(self, tmp_path: Path) -> None:
        """A certificate of a known CA is believed, and no other."""
        make_certificates(tmp_path)
        names = ("server.key", "server.pem", "ca.pem")
        running = grpc.server(ThreadPoolExecutor(1))
        key, certificate, _ = ((tmp_path / name).read_bytes() for name in names)
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            lambda _, __: b"\x08\x01"
        )
        health = grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": method})
        running.add_generic_rpc_handlers((health,))
        port = running.add_secure_port(
            "127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)])
        )
        running.start()
        try:
            url = f"grpcs://127.0.0.1:{port}"
            program = f"from tests.integration.test_ready import check; check({url!r}).ask()"
            for ca, status in (("ca.pem", 0), ("other.pem", 1)):
                done = subprocess.run(
                    [sys.executable, "-c", program],
                    env={"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / ca)},
                    cwd=Path(__file__).parents[2],
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert done.returncode == status, done.stderr
                assert status == 0 or "UNAVAILABLE" in done.stderr
        finally:
            running.stop(0).wait()


class TestOptions:
    @pytest.mark.parametrize(
        "url",
        [
            *("grpc://", "grpc://127.0.0.1", "grpc://127.0.0.1/orders", "grpc://:5/x"),
            *("grpc://127.0.0.1:0x5/x", "grpc://127.0.0.1:70000/x", "grpc://a:b@127.0.0.1:5/x"),
            *("grpc://127.0.0.1:5/x?y=1", "grpc://127.0.0.1:5/x#y", "grpc+unix://run%2Fx.sock/x"),
            *("http://", "http://a:b@127.0.0.1/x", "http://[::1"),
        ],
    )
    def test_what_cannot_be_asked_is_refused(self, url: str) -> None:
        """A mistake in a URL is found before anything is asked."""
        with pytest.raises(ValidationError, match=r"no URL|no user|must not hold|Invalid IPv6"):
            check(url)

    def test_a_status_says_nothing_of_grpc(self) -> None:
        """A key that would have no meaning is refused."""
        with pytest.raises(ValidationError, match="gRPC health check has none"):
            check("grpc://127.0.0.1:5", status=200)

    def test_without_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where gRPC is not installed, the error says how to install it; http needs none."""
        monkeypatch.setattr("deregister_agent.probes.extras.find_spec", lambda _: None)
        check("http://127.0.0.1:5/x")
        with pytest.raises(ValidationError, match=r"pip install 'deregister-agent\[grpc\]'"):
            check("grpc://127.0.0.1:5/x")

    def test_http_does_not_load_grpc(self) -> None:
        """It is an extra, and large."""
        program = "import sys, deregister_agent.probes.ready_check; sys.exit('grpc' in sys.modules)"
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
