"""The kernel's socket table: exact against real sockets, by both of its sources."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.host import sock_diag, sockets
from deregister_agent.host.sockets import (
    CONNECTED,
    LISTENING,
    Socket,
    SocketsError,
    State,
    connections,
    listeners,
    table,
)

MPTCP = 262  # IPPROTO_MPTCP (linux/in.h)
SO_COOKIE = 57  # (asm-generic/socket.h)


class Refused:
    """Stands in the place of sock_diag where a sandbox forbids it."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def dump(self, *_: object, **__: object) -> Iterator[Any]:
        raise self.error


@pytest.fixture(params=["sock_diag", "procfs"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read by sock_diag, and once more by the files in /proc."""
    if request.param == "procfs":
        refused = Refused(PermissionError(1, "Operation not permitted"))
        monkeypatch.setattr(sockets, "sock_diag", refused)
    return str(request.param)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def wait_for(condition: Callable[[], object], what: str, limit: float = 20.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"never happened: {what}"
        time.sleep(0.01)


def inode(one: socket.socket) -> int:
    return os.fstat(one.fileno()).st_ino


def pair(
    opened: ExitStack, family: int = socket.AF_INET, at: str = "127.0.0.1", to: str = ""
) -> tuple[socket.socket, socket.socket, socket.socket]:
    """Return a listener, a client connected to it, and the accepted connection."""
    server = opened.enter_context(
        socket.create_server(
            (at, 0), family=socket.AddressFamily(family), dualstack_ipv6=at == "::"
        )
    )
    client = opened.enter_context(socket.create_connection((to or at, server.getsockname()[1])))
    accepted, _ = server.accept()
    return server, client, opened.enter_context(accepted)


@pytest.mark.usefixtures("source")
class TestTable:
    def test_a_listener(self, opened: ExitStack) -> None:
        """A listener is shown with its address, its inode, and what waits to be accepted."""
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        (found,) = listeners(port)
        assert (found.state, found.local, found.local_port) == (State.LISTEN, "127.0.0.1", port)
        assert (found.inode, found.receive_queue) == (inode(server), 1)

    def test_a_connection(self, opened: ExitStack) -> None:
        """A connection is shown with both ends, its unread bytes and its inode."""
        server, client, accepted = pair(opened)
        client.sendall(b"hello")
        port, peer_port = server.getsockname()[1], client.getsockname()[1]
        ends = ("127.0.0.1", port, "127.0.0.1", peer_port)
        found = [s._replace(cookie=0) for s in connections(port)]
        assert found == [Socket(State.ESTABLISHED, *ends, 5, 0, inode(accepted))]

    def test_the_cookie(self, opened: ExitStack, source: str) -> None:
        """A connection is shown with the name that its holder knows too; the files tell none."""
        server, _, accepted = pair(opened)
        (found,) = connections(server.getsockname()[1])
        name = accepted.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)
        known = int.from_bytes(name, sys.byteorder)
        assert found.cookie == (known if source == "sock_diag" else 0)
        assert known

    def test_only_the_port_asked_for(self, opened: ExitStack) -> None:
        """Neither the client's end nor another port's connections are returned."""
        (one, client, _), (other, _, _) = pair(opened), pair(opened)
        assert len(connections(one.getsockname()[1])) == 1
        assert len(connections(other.getsockname()[1])) == 1
        (seen,) = table(CONNECTED, peer_port=one.getsockname()[1])
        assert seen.inode == inode(client)

    def test_not_accepted_yet(self, opened: ExitStack) -> None:
        """A connection that the app has not accepted is there, held by nobody."""
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = server.getsockname()[1]
        opened.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert [(s.state, s.inode) for s in connections(port)] == [(State.ESTABLISHED, 0)]

    def test_half_closed(self, opened: ExitStack) -> None:
        """The peer that has sent its all leaves CLOSE_WAIT; the app that has, FIN_WAIT2."""
        server, client, _ = pair(opened)
        second = opened.enter_context(socket.create_connection(server.getsockname()))
        accepted, _ = server.accept()
        opened.enter_context(accepted).shutdown(socket.SHUT_WR)
        client.shutdown(socket.SHUT_WR)
        wanted = {
            client.getsockname()[1]: State.CLOSE_WAIT,
            second.getsockname()[1]: State.FIN_WAIT2,
        }
        port = server.getsockname()[1]
        wait_for(lambda: {s.peer_port: s.state for s in connections(port)} == wanted, str(wanted))

    def test_time_wait_is_no_connection(self, opened: ExitStack) -> None:
        """What is only remembered is left out, and returned when asked for."""
        server, client, accepted = pair(opened)
        accepted.close()
        client.close()
        port = server.getsockname()[1]
        wait_for(lambda: table({State.TIME_WAIT}, local_port=port), "TIME_WAIT")
        assert connections(port) == []

    def test_ipv6(self, opened: ExitStack) -> None:
        """An IPv6 connection is shown with IPv6 addresses."""
        if not socket.has_ipv6:
            pytest.skip("no IPv6 here")
        server, _, accepted = pair(opened, socket.AF_INET6, "::1")
        (found,) = connections(server.getsockname()[1])
        assert (found.local, found.peer, found.inode) == ("::1", "::1", inode(accepted))

    def test_ipv4_mapped(self, opened: ExitStack) -> None:
        """An IPv4 peer of an IPv6 socket is shown as the IPv4 address it is."""
        if not socket.has_dualstack_ipv6():
            pytest.skip("no dual stack here")
        server, _, accepted = pair(opened, socket.AF_INET6, "::", "127.0.0.1")
        (found,) = connections(server.getsockname()[1])
        assert (found.local, found.peer, found.inode) == (
            "127.0.0.1",
            "127.0.0.1",
            inode(accepted),
        )
        assert [s.local for s in listeners(server.getsockname()[1])] == ["::"]

    def test_multipath(self, opened: ExitStack) -> None:
        """An MPTCP listener, as Go opens them, has the inode that its process holds."""
        try:
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP)
        except OSError:
            pytest.skip("no MPTCP here")
        opened.enter_context(server)
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert [s.inode for s in listeners(server.getsockname()[1])] == [inode(server)]

    def test_multipath_is_told(self, opened: ExitStack, source: str) -> None:
        """A connection that carries MPTCP is told from one that fell back to plain TCP."""
        if source == "procfs":
            pytest.skip("the files do not tell")
        try:
            server = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP))
        except OSError:
            pytest.skip("no MPTCP here")
        server.bind(("127.0.0.1", 0))
        server.listen()
        told = {}
        for protocol in (MPTCP, socket.IPPROTO_TCP):
            client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
            opened.enter_context(client).connect(server.getsockname())
            opened.enter_context(server.accept()[0])
            told[client.getsockname()[1]] = protocol == MPTCP
        found = connections(server.getsockname()[1], with_info=True)
        assert {s.peer_port: s.info and s.info.multipath for s in found} == told

    def test_many(self, opened: ExitStack) -> None:
        """More than one message of the kernel's is read to its end."""
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        for _ in range(600):
            opened.enter_context(socket.create_connection(server.getsockname()))
        ports = {s.peer_port for s in connections(server.getsockname()[1])}
        assert len(ports) == 600


def test_a_socket_that_one_reading_passes_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What either of two readings of the files shows is there, once."""
    line = " 0: 0100007F:1F90 0100007F:{:04X} 01 00000000:00000000 00:00000000 00000000 0 0 {} 1\n"
    folders = []
    for number, text in enumerate([line.format(1, 0) * 2, line.format(1, 7) + line.format(2, 8)]):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        (folders[-1] / "tcp").write_text("header\n" + text)

    class Changing:
        """A folder whose files are others each time they are opened."""

        def __truediv__(self, name: str) -> Path:
            return folders[0] / name if name != "tcp" else folders.pop() / name

    folders = [folders[0], folders[1], folders[0]]
    monkeypatch.setattr(sockets, "sock_diag", Refused(PermissionError(1, "not permitted")))
    monkeypatch.setattr(sockets, "_PROCFS", Changing())
    assert sorted(s.peer_port for s in connections(8080)) == [1, 2]


class TestInfo:
    def test_counts_bytes(self, opened: ExitStack) -> None:
        """On request the kernel's counts of a connection are returned."""
        server, client, accepted = pair(opened)
        client.sendall(b"hello")
        accepted.sendall(b"xy")
        (found,) = connections(server.getsockname()[1], with_info=True)
        assert found.info
        info = found.info
        assert (info.bytes_received, info.bytes_sent, info.unacked, info.notsent) == (5, 2, 0, 0)
        assert (info.bytes_acked, info.bytes_retrans) == (2, 0)
        assert max(info.last_data_sent, info.last_data_recv) < 60_000

    def test_unsent_bytes(self, opened: ExitStack) -> None:
        """What the peer does not take is counted as not sent and as queued."""
        server, _, accepted = pair(opened)
        accepted.setblocking(False)
        sent = 0
        try:
            while True:
                sent += accepted.send(b"x" * 65536)
        except BlockingIOError:
            pass
        (found,) = connections(server.getsockname()[1], with_info=True)
        assert found.info
        assert 0 < found.info.notsent <= found.send_queue < sent
        assert found.info.bytes_received == 0

    def test_not_without_asking(self, opened: ExitStack) -> None:
        """Without the request there is none."""
        server, _, _ = pair(opened)
        assert [s.info for s in connections(server.getsockname()[1])] == [None]

    def test_an_old_kernel(self) -> None:
        """Counts that the kernel does not give yet are None and not zero."""
        message, attribute = bytes(sock_diag._MESSAGE.size), sock_diag._ATTRIBUTE.pack
        other = message + attribute(5, 8) + b"\1\0\0\0"
        for size, told in ((104, False), (208, False), (216, True), (300, True)):
            info = sock_diag._info(memoryview(other + attribute(4 + size, 2) + bytes(size)))
            assert (info is not None) is told, size
        assert sock_diag._info(memoryview(message)) is None
        assert sock_diag._info(memoryview(message + bytes(8))) is None

    @pytest.mark.parametrize(("name", "multipath"), [("mptcp", True), ("tls", False)])
    def test_what_lies_above(self, name: str, multipath: bool) -> None:
        """Of what may lie above TCP only MPTCP is told: TLS in the kernel hides no queues."""
        text, attribute = name.encode() + b"\0", sock_diag._ATTRIBUTE.pack
        message = bytes(sock_diag._MESSAGE.size) + attribute(4 + 216, 2) + bytes(216)
        above = attribute(8 + len(text), 19) + attribute(4 + len(text), 1) + text
        info = sock_diag._info(memoryview(message + above))
        assert info
        assert info.multipath is multipath


class TestUnreadable:
    def test_neither_source(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """When nothing can be read an error says so: never an empty table."""
        monkeypatch.setattr(sockets, "sock_diag", Refused(PermissionError(1, "not permitted")))
        monkeypatch.setattr(sockets, "_PROCFS", tmp_path)
        with pytest.raises(SocketsError, match=r"sock_diag: .*not permitted.*allow AF_NETLINK"):
            listeners(1)

    @pytest.mark.parametrize("text", ["", "header\nnonsense\n", "header\n 0: 1:2 3:4 5 6\n"])
    def test_an_unknown_format(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
    ) -> None:
        """A file that is not what it should be is an error too."""
        monkeypatch.setattr(sockets, "sock_diag", Refused(PermissionError(1, "not permitted")))
        monkeypatch.setattr(sockets, "_PROCFS", tmp_path)
        (tmp_path / "tcp").write_text(text)
        with pytest.raises(SocketsError):
            listeners(1)

    def test_a_kernel_without_ipv6(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Where there is no IPv6 its table is not missed; where there is, it is."""
        monkeypatch.setattr(sockets, "sock_diag", Refused(PermissionError(1, "not permitted")))
        monkeypatch.setattr(sockets, "_PROCFS", tmp_path)
        (tmp_path / "tcp").write_text("header\n")
        assert listeners(1) == []
        (tmp_path / "if_inet6").touch()
        with pytest.raises(SocketsError):
            listeners(1)

    def test_in_bounded_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Past its time a reading is given up with an error."""
        monkeypatch.setattr(sockets, "sock_diag", Refused(TimeoutError()))
        with pytest.raises(SocketsError, match=r"within 5 s"):
            listeners(1)

    def test_procfs_in_bounded_time(
        self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The files are not read past that time either."""
        server, _, _ = pair(opened)
        monkeypatch.setattr(sockets, "sock_diag", Refused(PermissionError(1, "not permitted")))
        monkeypatch.setattr(sockets, "TABLE_TIMEOUT", -1.0)
        with pytest.raises(SocketsError, match=r"could not be read within"):
            listeners(server.getsockname()[1])


def answer(kind: int, body: bytes, flags: int = 0, sequence: int = 2) -> bytes:
    size = sock_diag._HEADER.size + len(body)
    return sock_diag._HEADER.pack(size, kind, flags, sequence, 0) + body


class Kernel:
    """A netlink socket on which the kernel says what the test wants."""

    def __init__(self, said: bytes, flags: int = 0) -> None:
        self.said, self.flags = said, flags

    def settimeout(self, _: float) -> None:
        """Be a socket."""

    def recvmsg(self, _: int) -> tuple[bytes, list[Any], int, Any]:
        return self.said, [], self.flags, (0, 0)


ZERO, NOT_PERMITTED = bytes(4), (-1).to_bytes(4, sys.byteorder, signed=True)


class TestSockDiag:
    @pytest.mark.parametrize(
        "kernel",
        [
            lambda: Kernel(answer(2, NOT_PERMITTED)),
            lambda: Kernel(answer(3, NOT_PERMITTED)),
            lambda: Kernel(answer(20, bytes(72), flags=0x10) + answer(3, ZERO)),
            lambda: Kernel(answer(3, ZERO), flags=socket.MSG_TRUNC),
        ],
        ids=["error", "error at the end", "changed", "cut off"],
    )
    def test_a_part_is_not_taken_for_the_whole(self, kernel: Callable[[], Any]) -> None:
        """An error of the kernel, and an answer that is not whole, are errors."""
        with pytest.raises(OSError, match=r"."):
            list(sock_diag._messages(kernel(), 2, 1e12))

    def test_another_answer_is_passed_over(self) -> None:
        """Messages of another request do not count."""
        stray, end = answer(20, b"stray", sequence=9), answer(3, ZERO)
        kernel: Any = Kernel(stray + bytes(3) + answer(20, b"ours") + end)
        assert [bytes(m) for m in sock_diag._messages(kernel, 2, 1e12)] == [b"ours"]


def test_without_a_privilege(opened: ExitStack) -> None:
    """Another user reads the same."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    server, _, accepted = pair(opened)
    os.seteuid(65534)
    try:
        (found,) = connections(server.getsockname()[1])
    finally:
        os.seteuid(0)
    assert found.inode == inode(accepted)


LISTEN = """
import socket, sys
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
sys.stdin.read()
"""


def listening(opened: ExitStack, *before: str) -> tuple[int, int]:
    """Let another process listen; return its pid and port."""
    command = [*before, sys.executable, "-I", "-S", "-c", LISTEN]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    opened.enter_context(child)
    opened.callback(child.kill)
    assert child.stdout
    return child.pid, int(child.stdout.readline())


def test_another_process(opened: ExitStack) -> None:
    """The sockets of other processes are in the table as well, and have a cookie there."""
    pid, port = listening(opened)
    (found,) = listeners(port)
    assert found.cookie
    assert table(LISTENING, local_port=port, pid=pid) == [found]


def test_a_process_in_another_network(opened: ExitStack) -> None:
    """The sockets of a container's process are not in our table, and are in its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may make a network")
    pid, port = listening(
        opened, "unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "-"
    )
    (found,) = table(LISTENING, local_port=port, pid=pid)
    assert (found.local, found.local_port) == ("127.0.0.1", port)
    ours = listeners(port)  # somebody else may have taken that number in our network
    assert found.inode not in {one.inode for one in ours}


def test_a_process_that_has_gone(opened: ExitStack) -> None:
    """Nothing is known of its network; that is an error, and not an empty table."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(SocketsError, match=f"/proc/{gone.pid}/net/tcp"):
        table(LISTENING, pid=gone.pid)
