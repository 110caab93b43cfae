"""The grpc probe, with a gRPC server and its clients in another process behind it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deregister_agent.probes.grpc import Options, build
from tests.apps.running_grpc import GrpcApp

from . import World, orders


@contextmanager
def world() -> Iterator[World]:
    """Give a probe of a server whose clients hold calls open."""
    with tempfile.TemporaryDirectory() as folder, GrpcApp(Path(folder)) as app:
        yield World(
            build(Options(kind="grpc", timeout=1.0), orders(app.port)),
            "calls",
            lambda count: app.tell(f"busy {count}"),
            lambda: app.tell("stop"),
            lambda: app.tell("start"),
            "channelz counts a call as ended when its client has left; its page says so",
            "channelz tells of all calls of the process, whoever made them",
            app.freeze,
            lambda: app.tell("serve"),
            lingers=True,
        )
