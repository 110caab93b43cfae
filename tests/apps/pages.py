"""A server of the test that says what it is told to: whole, broken off, slowly or not at all."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TEXT = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"


def page(body: str | bytes, kind: str = TEXT, status: str = "200 OK") -> bytes:
    """Return a whole HTTP answer."""
    body = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def document(content: object) -> bytes:
    """Return a whole HTTP answer with a JSON document."""
    return page(json.dumps(content), JSON)


class Pages:
    """Answers every request with what *answer* returns for its target; keeps what it was asked."""

    def __init__(self, answer: Callable[[str], bytes]) -> None:
        self.answer = answer
        self.said: bytes | None = None  # instead of the answer
        self.answers: dict[str, object] = {}  # for an answer that a test changes in parts
        self.slowly = self.hanging = False
        self.asked: list[str] = []
        self.over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end(self) -> None:
        """Stop serving; every connection ends."""
        self.over.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._talk, args=(connection,)))
            self._threads[-1].start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(65536)
                if not piece:
                    return
                request += piece
            text = request.decode(errors="replace")
            self.asked.append(text)
            if self.hanging:
                self.over.wait(60)
                return
            said = self.answer(text.split(" ")[1]) if self.said is None else self.said
            step = 1 if self.slowly else max(1, len(said))
            for at in range(0, len(said), step):
                connection.sendall(said[at : at + step])
                if self.slowly and self.over.wait(0.02):
                    return


@contextmanager
def pages(answer: Callable[[str], bytes]) -> Iterator[Pages]:
    """Run such a server for as long as the block lasts."""
    server = Pages(answer)
    try:
        yield server
    finally:
        server.end()
