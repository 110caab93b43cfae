"""The truth table of the raised tcp probe, row by row, against real servers."""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.probes import tcp
from tests.integration.tcp_plays import ROWS
from tests.integration.tcp_stage import ASGI, PLAIN, STILL, Stage, trusting, wait_for
from tests.servers.certificates import make_certificates

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "probes" / "tcp.md"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return folder


@pytest.fixture(autouse=True)
def _clients_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the clients of this process for clients of others: the probe leaves out its own."""
    monkeypatch.setattr(tcp, "own_sockets", frozenset)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def staged(stack: ExitStack, server: str, certificates: Path) -> Stage:
    if server == "http.server":
        return Stage(stack, PLAIN)
    if server == "MPTCP":
        try:
            return Stage(stack, PLAIN, protocol=262)  # IPPROTO_MPTCP (linux/in.h)
        except OSError:
            pytest.skip("no MPTCP here")
    if server == "hypercorn":
        return Stage(stack, ASGI)
    stage = Stage(stack, PLAIN, str(certificates), "0" if "without" in server else "2")
    old = server == "TLS 1.2"
    version = ssl.TLSVersion.TLSv1_2 if old else ssl.TLSVersion.TLSv1_3
    stage.wrap = trusting(certificates, version)
    return stage


@pytest.mark.parametrize("met", ["often", "seldom", "late"])
@pytest.mark.parametrize(
    ("name", "server"), [(name, server) for name, row in ROWS.items() for server in row.servers]
)
def test_row(stack: ExitStack, certificates: Path, name: str, server: str, met: str) -> None:
    """A connection is what its row says, looked at all the time, now and then, or only late."""
    row, stage = ROWS[name], staged(stack, server, certificates)
    if met == "often":
        stage.look_often()
    row.play(stage)
    if row.taken:
        stage.taken()
    stage.look_no_more()
    if met == "late":
        stage.meet()
    # a server may have read the end of a handshake and not sent its tickets yet
    wait_for(lambda: stage.look() in row.at_once.split(" or "), row.at_once)
    at_once = stage.look()
    stage.clock.time += STILL * 0.99
    just_before = stage.look()
    stage.clock.time += STILL * 0.02
    after = stage.look()
    assert just_before == at_once
    assert after in row.after.split(" or ")
    assert (at_once == "busy") is (after == "busy")


def test_the_page_shows_the_table() -> None:
    """The page has exactly these rows, and marks every one where idle is wrong."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = lines.index("| connection | work in hand | at once | after `still` seconds |") + 2
    shown = lines[first : lines.index("", first)]
    assert shown == [row.line(name) for name, row in ROWS.items()]


@pytest.mark.parametrize("server", ["http.server", "hypercorn"])
def test_a_drain_of_a_kept_connection(stack: ExitStack, certificates: Path, server: str) -> None:
    """Each request on a kept connection is seen, also one between two looks."""
    stage = staged(stack, server, certificates)
    client = stage.connect()
    told = []
    for _ in range(3):
        client.now()
        stage.taken()
        told.append(stage.look())
        stage.clock.time += STILL
        told.append(stage.look())
    assert told == ["unknown", "idle"] * 3
