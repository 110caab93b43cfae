"""The site of a change: one server of one upstream of one Nginx, and what is wished of it."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deregister_agent.host.files import locked
from deregister_agent.registries.nginx import proof_record
from deregister_agent.registries.nginx.conf import (
    ConfPaths,
    NginxConf,
    ServerDirective,
    Upstream,
    summary,
)
from deregister_agent.registries.nginx.parse import read
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.running import RunningNginx
from deregister_agent.registries.nginx.server_address import ServerAddress


@dataclass(frozen=True, slots=True)
class Site:
    """One server of one upstream of one Nginx, and all that is needed to change it."""

    paths: ConfPaths
    context: str
    upstream: str
    server: ServerAddress
    owned: Path | None  # the agent's own file, if it is to change no other
    may_be_absent: bool  # by the options, somebody may remove it: for advice
    running: RunningNginx
    test: tuple[str, ...]
    record: Path
    gather: float
    timeout: float
    obeys: frozenset[str]  # the directives that the operator vouches for

    @property
    def key(self) -> str:
        """The name by which proofs know this server."""
        return proof_record.key(self.context, self.upstream, self.server.canonical)

    @property
    def down(self) -> proof_record.DownServer:
        """The server, as proofs tell whether it is down."""
        return proof_record.DownServer(self.key, self.obeys)

    def read(self) -> NginxConf:
        """Read the configuration as it is on disk."""
        return read(self.paths)

    def servers(self, conf: NginxConf) -> list[ServerDirective]:
        """
        Return the directives that name this server, in reading order; none where it is absent.

        Raises NginxError where it cannot be certain that these are all.
        """
        self.block(conf)
        found = conf.find(self.context, self.upstream, self.server)
        if self.owned is not None:
            _check_owned(self.owned, conf, found, self.upstream)
        return found

    def block(self, conf: NginxConf) -> Upstream:
        """Return the upstream. Raises NginxError if there is none of that name."""
        there = conf.upstreams.get((self.context, self.upstream))
        if there is None:
            raise NginxError(
                f"{conf.paths.main} has no {self.context} upstream {self.upstream}; "
                f"it has: {summary(conf.upstreams)}"
            )
        return there

    def check_seen(self, conf: NginxConf) -> None:
        """Raise NginxError if Nginx reads other files than those that name this server."""
        self.running.check(conf.paths, {server.file for server in self.servers(conf)})

    @contextmanager
    def locked(self, until: float) -> Iterator[None]:
        """Keep other agents, and other instances of this agent, away. Raises TimeoutError."""
        with locked(self.record, max(until - time.monotonic(), 0.0)):
            yield


@dataclass(frozen=True, slots=True)
class Wish:
    """Which of a server's directives are to be down, or up; or the file to make."""

    which: tuple[int, ...] | None = None  # None: all
    down: bool = True
    create: bytes = b""

    def unmet(self, servers: Sequence[ServerDirective]) -> tuple[int, ...]:
        """Return which of these are not yet as wished."""
        which = range(len(servers)) if self.which is None else self.which
        return tuple(i for i in which if i < len(servers) and servers[i].down != self.down)


def _check_owned(
    owned: Path, conf: NginxConf, found: Sequence[ServerDirective], upstream: str
) -> None:
    """Raise NginxError if the server does not stand in the owned file alone."""
    file = Path(os.path.realpath(owned))
    for server in found:
        if server.file != file:
            raise NginxError(
                f"upstream {upstream} lists the server in {conf.place(server)} too; "
                f"leave it to {owned} alone"
            )
    if file.exists() and not found:
        why = "has no such server" if file in conf.files else "is included by nothing"
        raise NginxError(f"{owned} {why} in upstream {upstream}")
