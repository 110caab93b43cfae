"""
Very many small apps in one process: each PORT answers any request as an idle app does.

``python -m bench.many PORT ...``
"""

import asyncio
import json
import sys
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from contextlib import AsyncExitStack, suppress

IDLE = json.dumps({"in_flight": {"requests": 0}, "started": 0, "process": {"mark": "one"}}).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(IDLE)
    + IDLE
)


async def _serve(reader: StreamReader, writer: StreamWriter) -> None:
    with suppress(ConnectionError, IncompleteReadError):
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)
            await writer.drain()
    writer.close()


async def main(ports: list[int]) -> None:
    """Serve on every port until killed."""
    async with AsyncExitStack() as stack:
        for port in ports:
            await stack.enter_async_context(await asyncio.start_server(_serve, "127.0.0.1", port))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main([int(port) for port in sys.argv[1:]]))
