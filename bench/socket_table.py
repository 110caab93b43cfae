"""How long one read of the tcp probe takes beside 20,000 connections to its port."""

import os
import resource
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.table import Row, report
from deregister_agent.host.sockets import connections
from deregister_agent.model import Instance
from deregister_agent.probes.tcp import Options, build

CONNECTIONS = 20_000
GOAL = 150.0  # ms
READS = 15
SHARES = 2  # processes at either end, so that none needs more descriptors than it may open
SPARE = 200  # descriptors that each process needs besides

Role = Callable[[socket.socket, int, int], None]


@contextmanager
def connected(count: int) -> Iterator[int]:
    """Hold *count* connections, each with a request and its answer, between other processes."""
    children: list[int] = []
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        port: int = listener.getsockname()[1]
        try:
            for number in range(SHARES):
                share = count * (number + 1) // SHARES - count * number // SHARES
                children += [_forked(role, listener, share, number) for role in (_accept, _connect)]
            _until_connected(port, count)
            yield port
        finally:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def _forked(role: Role, listener: socket.socket, share: int, number: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        role(listener, share, number)
    finally:
        os._exit(1)


def _accept(listener: socket.socket, share: int, number: int) -> None:
    del number
    held = [listener.accept()[0] for _ in range(share)]
    for one in held:
        one.sendall(one.recv(64))
    signal.pause()


def _connect(listener: socket.socket, share: int, number: int) -> None:
    source = (f"127.0.0.{number + 2}", 0)  # an address of its own has ports of its own
    held = []
    for _ in range(share):
        one = socket.create_connection(listener.getsockname(), source_address=source)
        one.sendall(b"request")
        held.append(one)
    signal.pause()


def _until_connected(port: int, count: int) -> None:
    end = time.monotonic() + 60
    while not _is_answered(port, count):
        if time.monotonic() > end:
            raise RuntimeError(f"{count} connections could not be made")
        time.sleep(0.2)


def _is_answered(port: int, count: int) -> bool:
    found = connections(port, with_info=True)
    return sum(1 for s in found if s.info and s.info.bytes_acked) >= count


def reads(port: int, still: float | None, least: int) -> list[tuple[float, float]]:
    """Return the time and the processor time of each read, in ms; at *least* so many show."""
    probe = build(Options(kind="tcp", still=still), Instance("web", "web", "127.0.0.1", port))
    took = []
    for _ in range(READS):
        began, worked = time.perf_counter(), time.process_time()
        reading = probe.read(0.0)
        ended = (time.perf_counter() - began) * 1000
        took.append((ended, (time.process_time() - worked) * 1000))
        if sum(reading.in_flight.values()) < least:
            raise RuntimeError(f"{least} connections, and the probe says {reading.in_flight}")
    return took


def _rows(what: str, took: list[tuple[float, float]], factor: float) -> list[Row]:
    """Sum up; the first read, which meets all connections anew, for itself."""
    first, *later = [(ms * factor, worked * factor) for ms, worked in took]
    return [
        Row(f"{what}: the first read", first[0], "ms"),
        Row(f"{what}: a read, median", statistics.median(ms for ms, _ in later), "ms", GOAL),
        Row(f"{what}: a read, slowest", max(ms for ms, _ in later), "ms"),
        Row(f"{what}: processor time, median", statistics.median(ms for _, ms in later), "ms"),
    ]


def measure() -> list[Row]:
    """Measure at 20,000 connections, or scaled from as many as the limit on open files allows."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    count = CONNECTIONS
    if allowed != resource.RLIM_INFINITY:
        count = min(count, SHARES * (allowed - SPARE))
    factor = CONNECTIONS / count
    if factor > 1:
        made = f"only {count} connections: no more than {allowed} open files are allowed"
        print(f"{made}; times are multiplied by {factor:.2f}", file=sys.stderr)
    with connected(count) as port, socket.create_server(("127.0.0.1", 0)) as quiet:
        plain, raised = reads(port, None, count), reads(port, 60.0, count)
        beside = reads(quiet.getsockname()[1], 60.0, 0)
    worked = [statistics.median(ms for _, ms in took[1:]) for took in (raised, plain)]
    return [
        *_rows(f"{CONNECTIONS:,} connections, all count", plain, factor),
        *_rows(f"{CONNECTIONS:,} connections, followed (still)", raised, factor),
        Row("processor time, followed: as a multiple of all count", worked[0] / worked[1], ""),
        *_rows("no connection to the port, beside them", beside, 1.0)[1:2],
    ]


if __name__ == "__main__":
    report(measure)
