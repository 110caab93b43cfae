"""The same over TLS: both sides are verified, and each step has its end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.net.fetcher import Fetcher, FetchError
from tests.servers.certificates import make_certificates, server_side
from tests.servers.talking import OK, Server, Talk, answering, hanging, talking, trickling

LIMIT = 0.5
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a function that starts servers, and end them all."""
    with ExitStack() as stack:
        yield lambda talk, **how: stack.enter_context(talking(talk, **how))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


class TestTLS:
    def test_own_ca_and_client_certificate(
        self, serve: Serve, certificates: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both sides are verified, with the files given and none of the environment's."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(certificates / "other.pem"))
        server = serve(answering(OK), tls=server_side(certificates))
        assert _over_tls(server, certificates).call("GET", "/").text == "hello"

    def test_the_environment_lends_no_trust(
        self, serve: Serve, certificates: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a CA of its own, the system's count, not those that the environment names."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(certificates / "ca.pem"))
        server = serve(answering(OK), tls=server_side(certificates))
        with pytest.raises(FetchError, match=r"TLS failed: .*certificate verify failed"):
            _over_tls(server, certificates, ca=None).call("GET", "/")

    def test_a_wrong_ca(self, serve: Serve, certificates: Path) -> None:
        """A server that another CA vouches for is not spoken to."""
        server = serve(answering(OK), tls=server_side(certificates))
        with pytest.raises(FetchError, match="certificate verify failed"):
            _over_tls(server, certificates, ca=certificates / "other.pem").call("GET", "/")

    def test_a_wrong_name(self, serve: Serve, certificates: Path) -> None:
        """A certificate for another name is refused."""
        server = serve(answering(OK), tls=server_side(certificates))
        base = f"https://localhost:{server.port}"
        with pytest.raises(FetchError, match="certificate verify failed"):
            Fetcher(base, timeout=5.0, tls_files=(certificates / "ca.pem", None, None)).call(
                "GET", "/"
            )

    def test_no_client_certificate(self, serve: Serve, certificates: Path) -> None:
        """A server that wants a client certificate, and gets none, gives no answer."""
        server = serve(answering(OK), tls=server_side(certificates))
        with pytest.raises(FetchError):
            _over_tls(server, certificates, certificate=None, key=None).call("GET", "/")

    def test_a_file_that_is_missing_is_named(self, serve: Serve, certificates: Path) -> None:
        """The error names the file."""
        server = serve(answering(OK), tls=server_side(certificates))
        with pytest.raises(FetchError, match=r"cannot use .*/nowhere\.pem: No such file"):
            _over_tls(server, certificates, ca=certificates / "nowhere.pem").call("GET", "/")

    @pytest.mark.parametrize("talk", [hanging, trickling(LONG, 60)])
    def test_the_deadline_holds_within_tls(
        self, serve: Serve, certificates: Path, talk: Talk
    ) -> None:
        """Hanging and trickling end in time over TLS, too."""
        server = serve(talk, tls=server_side(certificates))
        with pytest.raises(FetchError, match="no answer within"):
            _over_tls(server, certificates).call("GET", "/", timeout=1.0)

    def test_the_deadline_holds_for_the_handshake(self, serve: Serve, certificates: Path) -> None:
        """A server that never answers the handshake holds nobody."""
        with pytest.raises(FetchError, match="no answer within"):
            _over_tls(serve(hanging), certificates).call("GET", "/", timeout=LIMIT)


def _over_tls(server: Server, folder: Path, **other: Path | None) -> Fetcher:
    files = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
    paths: dict[str, Path | None] = {k: folder / v for k, v in files.items()}
    paths |= other
    base = f"https://127.0.0.1:{server.port}"
    return Fetcher(base, timeout=5.0, tls_files=(paths["ca"], paths["certificate"], paths["key"]))
