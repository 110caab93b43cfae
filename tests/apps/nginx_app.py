"""
An app for the Nginx load test, as a process that can be killed. Arguments: PORT ADMIN KIND.

It answers quickly, slowly, in a stream, takes uploads, and speaks WebSocket (RFC 6455)
as far as small text frames. One of kind "flaky" drops every request for /retry after a
while, without an answer. ADMIN tells how many requests are in hand.
"""

import asyncio
import base64
import hashlib
import sys
from asyncio import StreamReader, StreamWriter
from contextlib import suppress

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LOST = (ConnectionError, asyncio.IncompleteReadError)


class App:
    """Counts what it has in hand."""

    def __init__(self, kind: str) -> None:
        self.kind, self.in_hand = kind, 0

    async def admin(self, reader: StreamReader, writer: StreamWriter) -> None:
        writer.write(b"%d\n" % self.in_hand)
        writer.close()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        with suppress(*LOST):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.in_hand += 1
            try:
                await self.answer(head, reader, writer)
                await writer.drain()
            finally:
                self.in_hand -= 1
        writer.close()

    async def answer(self, head: str, reader: StreamReader, writer: StreamWriter) -> None:
        path = head.split(" ")[1]
        headers = {
            key.lower(): value.strip()
            for key, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
        }
        match path:
            case "/slow":
                await asyncio.sleep(1.0)
            case "/upload":
                await reader.readexactly(int(headers["content-length"]))
            case "/retry" if self.kind == "flaky":
                await asyncio.sleep(1.0)
                writer.transport.abort()
                return
            case "/stream":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(10):
                    writer.write(b"s" * 100)
                    await writer.drain()
                    await asyncio.sleep(0.1)
                return
            case "/ws":
                await self.websocket(headers, reader, writer)
                return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async def websocket(
        self, headers: dict[str, str], reader: StreamReader, writer: StreamWriter
    ) -> None:
        key = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest())
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        writer.write(b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + key + b"\r\n\r\n")
        while True:
            first, length = await reader.readexactly(2)
            mask = await reader.readexactly(4)
            data = bytes(
                b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(length & 127))
            )
            writer.write(bytes([first, len(data)]) + data)
            await writer.drain()
            if first & 15 == 8:  # close
                return


async def main(port: int, admin: int, kind: str) -> None:
    app = App(kind)
    await asyncio.start_server(app.admin, "127.0.0.1", admin)
    server = await asyncio.start_server(app.serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
