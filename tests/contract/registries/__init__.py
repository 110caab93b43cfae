"""
Where each registry runs for the shared tests. A new one adds one file here and edits none.

The file has ``WORLDS``: for each way to set the registry up, a function that is given an
empty folder and returns a context manager, which gives a World and takes it down again.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from deregister_agent.ports import Registry


@dataclass(frozen=True)
class World:
    """A registry that lists an instance and two others, and what a test may do to it."""

    registry: Registry  # of the instance that is listed
    relist: Callable[[], None]  # the instance is listed again, by others: its app registers itself
    neighbours: Callable[[], int]  # how many of the two others are listed, asked past the backend
    absent: Registry  # of an instance that is not there and never was
    silent: Callable[[int], Registry] | None = None  # of a server at this port, which never answers
    refused: Callable[[int], Registry] | None = None  # of a port where nobody listens
    counts: bool = True  # others() can tell
    watches: bool = True  # watch() can tell
    out: Callable[[], None] | None = None  # another hand puts it out, where it is recognised still
    out_by: str = ""  # what of that its look tells a person
    alike: Registry | None = None  # of the instance that is listed, with a slip in its options
    alike_named: str = ""  # what that one must tell of the instance: its ID, key or target
    add_other: Callable[[], str] | None = None  # something else there leads to the instance; name
    leaving_out: Callable[[str], Registry] | None = None  # the registry, with that in ``not_ours``


WorldMaker = Callable[[Path], AbstractContextManager[World]]


@contextmanager
def silent_server() -> Iterator[int]:
    """Listen on a port, let the kernel accept connections, and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def refusing_port() -> Iterator[int]:
    """Hold a port that refuses connections: bound, so that no other takes it, not listening."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
