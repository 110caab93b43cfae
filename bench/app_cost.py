"""
What counting costs the app: microseconds added to one request, task or message.

    python -m bench.app_cost [--json]

Each row is the best of many short rounds of the counted call minus the same call
uncounted, in processor time of one thread, so that what else the machine does
matters little. The limit is 5 microseconds for a request, and 10 more for each
call that it hands to a thread.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Executor, Future
from typing import Any

import grpc

from deregister_agent.app import Work

CALLS, ROUNDS = 1000, 150
LIMIT = 5.0  # microseconds for each request
HAND_OVER_LIMIT = 10.0  # microseconds for each call that a request hands to a thread


def best(call: Callable[[], object]) -> float:
    """Return the microseconds of one *call*, the best round of several."""
    rounds = []
    for _ in range(ROUNDS):
        begin = time.thread_time()
        for _ in range(CALLS):
            call()
        rounds.append(time.thread_time() - begin)
    return min(rounds) / CALLS * 1e6


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}
BODY = {"type": "http.response.body", "body": b""}


def wsgi_app(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer nothing, at once."""
    start_response("200 OK", [("Content-Length", "0")])
    return [b""]


def start_response(_status: str, _headers: list[tuple[str, str]]) -> None:
    """Take the beginning of an answer, as a server does."""


async def take(_message: Any) -> None:
    """Take a part of an answer, as a server does."""


def wsgi_cost(work: Work) -> float:
    """Return what the WSGI middleware adds to a request, body included."""
    environ = {"PATH_INFO": "/orders"}
    counted = work.wsgi(wsgi_app)

    def serve(app: Callable[..., Iterable[bytes]]) -> None:
        body = app(environ, start_response)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()

    return best(lambda: serve(counted)) - best(lambda: serve(wsgi_app))


async def asgi_app(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer nothing, at once."""
    await send(START)
    await send(BODY)


def asgi_cost(work: Work) -> float:
    """Return what the ASGI middleware adds to a request."""
    scope = {"type": "http", "http_version": "1.1", "path": "/orders"}
    counted = work.asgi(asgi_app)

    async def rounds(app: Callable[..., Any]) -> float:
        took = []
        for _ in range(ROUNDS):
            begin = time.thread_time()
            for _ in range(CALLS):
                await app(scope, None, take)
            took.append(time.thread_time() - begin)
        return min(took) / CALLS * 1e6

    return asyncio.run(rounds(counted)) - asyncio.run(rounds(asgi_app))


class Details:
    """What gRPC tells an interceptor of a call."""

    method, invocation_metadata = "/shop.Orders/Get", ()


class Context:
    """What gRPC tells a handler of a call, as far as it is needed here."""

    def __init__(self) -> None:
        self.over: Callable[[], object] = int

    def add_callback(self, callback: Callable[[], object]) -> bool:
        """Remember what to call when the call is over."""
        self.over = callback
        return True


def grpc_cost(work: Work) -> float:
    """Return what the interceptor adds to a unary call of a threaded server."""
    plain: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        lambda request, _: request
    )
    counting = work.grpc()

    def counted() -> None:
        context = Context()
        counting.intercept_service(lambda _: plain, Details).unary_unary(b"", context)
        context.over()

    def uncounted() -> None:
        context = Context()
        plain.unary_unary(b"", context)  # type: ignore[misc, arg-type]
        context.over()

    return best(counted) - best(uncounted)


async def unary(request: bytes, _context: Any) -> bytes:
    """Answer at once."""
    return request


def grpc_aio_cost(work: Work) -> float:
    """Return what the interceptor adds to a unary call of a grpc.aio server, task and all."""
    plain: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(unary)
    counting = work.grpc_aio()

    async def find(_: object) -> Any:
        return plain

    async def counted() -> None:
        await (await counting.intercept_service(find, Details)).unary_unary(b"", None)

    async def uncounted() -> None:
        found = await find(Details)
        await found.unary_unary(b"", None)

    async def rounds(call: Callable[[], Coroutine[Any, Any, None]]) -> float:
        loop, took = asyncio.get_running_loop(), []
        for _ in range(ROUNDS):
            begin = time.thread_time()
            for _ in range(CALLS):
                await loop.create_task(call())  # as gRPC does: the count ends with the task
            took.append(time.thread_time() - begin)
        return min(took) / CALLS * 1e6

    return asyncio.run(rounds(counted)) - asyncio.run(rounds(uncounted))


def message_cost(work: Work) -> float:
    """Return what ``with work.message():`` adds to a message."""

    def counted() -> None:
        with work.message():
            pass

    return best(counted) - best(lambda: None)


class AtOnce(Executor):
    """Runs what is submitted in the caller's thread: what remains is the wrapper's cost."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it now."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def executor_cost(work: Work) -> float:
    """Return what the executor wrapper adds to a task."""
    plain = AtOnce()
    counted = work.executor(plain)
    return best(lambda: counted.submit(int)) - best(lambda: plain.submit(int))


def thread_cost(work: Work) -> float:
    """Return what a request adds to the hand-over of a call to an executor of its loop."""
    pool, took = AtOnce(), dict.fromkeys(("outside", "inside"), float("inf"))

    async def rounds(where: str) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ROUNDS):
            begin = time.thread_time()
            for _ in range(CALLS):
                await loop.run_in_executor(pool, int)
            took[where] = min(took[where], (time.thread_time() - begin) / CALLS * 1e6)

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        await rounds("inside")

    async def both() -> None:
        await rounds("outside")
        await work.asgi(app)({"type": "http", "path": "/orders"}, None, None)  # type: ignore[arg-type]

    asyncio.run(both())
    return took["inside"] - took["outside"]


def main() -> int:
    """Measure, print, and return 1 if a request or a hand-over costs more than its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    as_json = parser.parse_args().json
    work = Work()
    costs = {
        "wsgi request": wsgi_cost(work),
        "asgi request": asgi_cost(work),
        "grpc call": grpc_cost(work),
        "grpc.aio call": grpc_aio_cost(work),
        "message (with block)": message_cost(work),
        "task (executor)": executor_cost(work),
        "thread's hand-over": thread_cost(work),
        "one GET /-/work": best_of_report(work),
    }
    requests = ("wsgi request", "asgi request", "grpc call", "grpc.aio call")
    within = max(costs[name] for name in requests) <= LIMIT
    within = within and costs["thread's hand-over"] <= HAND_OVER_LIMIT
    if as_json:
        print(json.dumps({"unit": "us", "limit": LIMIT, "within": within, "cost": costs}))
    else:
        for name, cost in costs.items():
            print(f"{name:<24}{cost:9.2f} us")
        said = "kept" if within else "EXCEEDED"
        print(f"limits                  {LIMIT:9.2f} us, {HAND_OVER_LIMIT:g} in a thread: {said}")
    return 0 if within else 1


def best_of_report(work: Work) -> float:
    """Return what one answer of the page costs, the look at other processes included."""
    took = []
    for _ in range(50):
        begin = time.thread_time()
        work.report()
        took.append(time.thread_time() - begin)
    return min(took) * 1e6


if __name__ == "__main__":
    sys.exit(main())
