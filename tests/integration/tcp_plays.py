"""What is played on one connection, and what the raised tcp probe may say of it then."""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import h2.connection
import h2.events

from tests.integration.tcp_stage import Client, Stage, wait_for

HTTP = ("http.server", "hypercorn")
TLS = ("TLS 1.2", "TLS 1.3")


def silent(stage: Stage) -> None:
    stage.connect()


def kept(stage: Stage) -> Client:
    client = stage.connect()
    client.now()
    return client


def kept_for_long(stage: Stage) -> Client:
    client = kept(stage)
    stage.pause()
    stage.look()
    return client


def first_request(stage: Stage) -> None:
    stage.connect().send("GET /hold")


def later_request(stage: Stage) -> None:
    kept_for_long(stage).send("GET /hold")


def next_request_at_once(stage: Stage) -> None:
    kept(stage).send("GET /hold")


def pipelined(stage: Stage) -> None:
    client = stage.connect()
    client.send("GET /now", "GET /hold")
    client.until(b"\r\n\r\nxx")


def uploading(stage: Stage) -> None:
    head = "POST /now HTTP/1.1\r\nHost: web\r\nContent-Length: 100\r\n\r\n"
    kept_for_long(stage).connection.sendall(head.encode() + b"some")


def told_to_continue(stage: Stage) -> None:
    client = kept_for_long(stage)
    head = "POST /now HTTP/1.1\r\nHost: web\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    client.connection.sendall(head.encode())
    client.until(b"\r\n\r\n")


def streamed(stage: Stage) -> None:
    client = kept_for_long(stage)
    client.send("GET /pieces")
    client.until(b"xx\r\n")


def stalled(stage: Stage) -> None:
    kept(stage).send("GET /big")
    wait_for(lambda: (info := stage.kernel().info) and info.notsent, "a full send queue")


def half_closed(stage: Stage) -> None:
    client = kept_for_long(stage)
    client.send("GET /hold")
    client.connection.shutdown(socket.SHUT_WR)


def handshake_ended_by_client(stage: Stage) -> None:
    """Send the client's last word of the handshake late, as over a long way."""
    assert stage.wrap
    raw = stage.connect_plain()
    received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
    talk = stage.wrap.wrap_bio(received, to_send, server_hostname="127.0.0.1")
    while True:
        try:
            talk.do_handshake()
        except ssl.SSLWantReadError:
            raw.sendall(to_send.read())
            received.write(raw.recv(65536))
        else:
            break
    stage.pause()
    raw.sendall(to_send.read())


def upgraded(stage: Stage) -> Client:
    client = stage.connect()
    client.connection.sendall(
        b"GET / HTTP/1.1\r\nHost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    client.until(b"\r\n\r\n")
    return client


def frame(client: Client, kind: int, text: bytes) -> None:
    """Send one WebSocket frame, masked with zeros (RFC 6455, 5.2)."""
    client.connection.sendall(bytes([0x80 | kind, 0x80 | len(text)]) + bytes(4) + text)


def echoed(stage: Stage) -> None:
    client = upgraded(stage)
    frame(client, 1, b"echo")
    client.until(b"\x81\x04echo")


def pinged(stage: Stage) -> None:
    client = upgraded(stage)
    stage.pause()
    frame(client, 9, b"")
    client.until(b"\x8a\x00")


def unanswered(stage: Stage) -> None:
    client = upgraded(stage)
    stage.pause()
    frame(client, 1, b"nothing to say to that")


class Http2:
    """The client's end of an HTTP/2 connection."""

    def __init__(self, stage: Stage) -> None:
        self._connection = stage.connect().connection
        self._state = h2.connection.H2Connection()
        self._state.initiate_connection()

    def ask(self, path: str) -> None:
        number = self._state.get_next_available_stream_id()
        head = [(":method", "GET"), (":path", path), (":scheme", "http"), (":authority", "web")]
        self._state.send_headers(number, head, end_stream=True)
        self.send()

    def send(self) -> None:
        self._connection.sendall(self._state.data_to_send())

    def answered(self) -> None:
        """Read until one answer has come to its end."""
        ended = False
        while not ended:
            events = self._state.receive_data(self._connection.recv(65536))
            self.send()
            ended = any(isinstance(event, h2.events.StreamEnded) for event in events)

    def enlarge_window(self) -> None:
        self._state.increment_flow_control_window(1000)
        self.send()


def one_of_two_answered(stage: Stage) -> None:
    client = Http2(stage)
    client.ask("/hold")
    client.ask("/now")
    client.answered()
    stage.pause()  # now both sides have taken note of each other's settings
    client.ask("/now")
    client.answered()


def window_enlarged(stage: Stage) -> None:
    client = Http2(stage)
    client.ask("/now")
    client.answered()
    stage.pause()
    client.enlarge_window()


@dataclass(frozen=True)
class Row:
    """One line of the truth table."""

    play: Callable[[Stage], object]
    owes: bool  # whether the app has work in hand, or a client's that has not ended
    at_once: str  # what the probe may say as soon as it looks
    after: str  # and when no byte has moved for ``still`` seconds
    servers: tuple[str, ...] = HTTP
    taken: bool = True  # whether the queues come to be empty

    def line(self, name: str) -> str:
        """Return the line of the page."""
        after = self.after
        if self.owes:
            after = after.replace("idle", "**idle, which is wrong**")
        else:
            after = after.replace("busy", "busy, needlessly")
            after = after.replace("unknown", "unknown, needlessly")
        return f"| {name} | {'yes' if self.owes else 'no'} | {self.at_once} | {after} |"


_TIE = ("busy or unknown", "busy or idle")  # whether the kernel's clock has ticked in between

ROWS = {
    "nothing sent yet": Row(silent, False, "unknown", "idle"),
    "HTTP/1.1, kept alive after an answer": Row(kept, False, "unknown", "idle"),
    "the first request on its connection": Row(first_request, True, "busy", "busy"),
    "a request or long poll, some time after an answer": Row(later_request, True, "busy", "busy"),
    "the next request, at once after an answer": Row(next_request_at_once, True, *_TIE),
    "pipelining: one of two requests answered": Row(pipelined, True, "unknown", "idle"),
    "an upload, between two pieces": Row(uploading, True, "busy", "busy"),
    "`100 Continue` sent, the body to come": Row(told_to_continue, True, "unknown", "idle"),
    "a chunked answer, between two pieces": Row(streamed, True, "unknown", "idle"),
    "an answer that its reader does not take": Row(stalled, True, "busy", "busy", taken=False),
    "half-closed by the client after its request": Row(
        half_closed, True, "busy", "busy", servers=("http.server",), taken=False
    ),
    "TLS 1.2 and 1.3, after the handshake": Row(silent, False, "unknown", "idle", TLS),
    "TLS 1.2 and 1.3, a request at once after the handshake": Row(first_request, True, *_TIE, TLS),
    "TLS 1.2 and 1.3, kept alive after an answer": Row(kept, False, "unknown", "idle", TLS),
    "TLS 1.2 and 1.3, a request some time after an answer": Row(
        later_request, True, "busy", "busy", TLS
    ),
    "TLS 1.3 without session tickets, after the handshake": Row(
        handshake_ended_by_client, False, "busy", "busy", ("TLS 1.3 without tickets",)
    ),
    "multipath TCP (MPTCP), kept alive after an answer": Row(
        kept, False, "unknown", "unknown", ("MPTCP",)
    ),
    "WebSocket, after the handshake": Row(upgraded, False, "unknown", "idle", ("hypercorn",)),
    "WebSocket, a message answered": Row(echoed, False, "unknown", "idle", ("hypercorn",)),
    "WebSocket, a ping answered": Row(pinged, False, "unknown", "idle", ("hypercorn",)),
    "WebSocket, a message that is never answered": Row(
        unanswered, False, "busy", "busy", ("hypercorn",)
    ),
    "HTTP/2, one of two requests answered": Row(
        one_of_two_answered, True, "unknown", "idle", ("hypercorn",)
    ),
    "HTTP/2, answered, then a `WINDOW_UPDATE` by the client": Row(
        window_enlarged, False, "busy", "busy", ("hypercorn",)
    ),
}
