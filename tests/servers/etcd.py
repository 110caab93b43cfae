"""Real etcd: one node of either version, with logins and TLS or without, and a cluster of three."""

import atexit
import shutil
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deregister_agent.errors import AgentError
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.net.tls import NO_FILES
from tests.servers import find
from tests.servers.certificates import NEW, _openssl, make_certificates
from tests.servers.child import Child, free_ports, wait_until

VERSIONS = ("3.4", "3.5")
ROOT = ("root", "root-password")
Keyspace = dict[str, tuple[str, str]]
"""Each key with its value and the id of its lease."""


@dataclass(frozen=True)
class Place:
    """Where a member listens, and what runs it there: a program before etcd, if any."""

    name: str
    host: str
    ports: tuple[int, int]  # for clients, for the other members
    before: tuple[str, ...] = ()

    @property
    def peer(self) -> str:
        """Where the other members reach it."""
        return f"http://{self.host}:{self.ports[1]}"


class Etcd(Child):
    """
    One member. Made by etcd() and cluster().

    ``url`` is where clients reach it. Its methods are for tests: they go past the backend.
    """

    def __init__(
        self,
        folder: Path,
        version: str,
        members: Sequence[Place],
        place: Place,
        *,
        tls: Path | None = None,
        **more: str,
    ) -> None:
        scheme = "https" if tls else "http"
        self.folder = folder
        self.place, self.version = place, version
        self.url = f"{scheme}://{place.host}:{place.ports[0]}"
        self.login: tuple[str, str] | None = None
        self._api = Fetcher(
            self.url,
            timeout=10.0,
            tls_files=(tls / "ca.pem", tls / "nameless.pem", tls / "nameless.key")
            if tls
            else NO_FILES,
            body_limit=67_108_864,
        )
        settings = {
            "name": place.name,
            "data-dir": str(folder / place.name),
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": place.peer,
            "initial-advertise-peer-urls": place.peer,
            "initial-cluster": ",".join(f"{m.name}={m.peer}" for m in members),
            "heartbeat-interval": "50",
            "election-timeout": "500",
            "auth-token-ttl": "300",
        }
        if tls:
            settings |= {"cert-file": str(tls / "server.pem"), "key-file": str(tls / "server.key")}
            settings |= {"trusted-ca-file": str(tls / "ca.pem"), "client-cert-auth": "true"}
        settings |= {name.replace("_", "-"): value for name, value in more.items()}
        command = [*place.before, *find(f"etcd-{version}")]
        command += [f"--{name}={value}" for name, value in settings.items()]
        super().__init__(command, folder / f"{place.name}.log")

    def call(self, path: str, payload: object) -> Any:
        """Call its API, and fail unless it says 200."""
        headers = {}
        if self.login:
            who = dict(zip(("name", "password"), self.login, strict=True))
            headers["Authorization"] = self._ok("/auth/authenticate", who, {})["token"]
        return self._ok(path, payload, headers)

    def _ok(self, path: str, payload: object, headers: dict[str, str]) -> Any:
        answer = self._api.call("POST", "/v3" + path, payload=payload, headers=headers)
        assert answer.status == 200, f"{path}: {answer.status} {answer.text}"
        return answer.json()

    def put(self, key: str, value: str, lease: str = "0") -> int:
        """Write a key, as an app would; return the revision."""
        request = {"key": _encoded(key), "value": _encoded(value), "lease": lease}
        return int(self.call("/kv/put", request)["header"]["revision"])

    def get(self, key: str) -> str | None:
        """Return the value of a key; None if it is not there."""
        found = self.call("/kv/range", {"key": _encoded(key)}).get("kvs")
        return _decoded(found[0].get("value", "")) if found else None

    def delete(self, key: str) -> None:
        """Delete a key."""
        self.call("/kv/deleterange", {"key": _encoded(key)})

    def clear(self, prefix: str) -> None:
        """Delete all keys that begin with *prefix*."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        self.call("/kv/deleterange", {"key": _encoded(prefix), "range_end": _encoded(end)})

    def keyspace(self, *, without: str = "") -> Keyspace:
        """Return every key there is, but those that begin with *without*, if it is given."""
        found = self.call("/kv/range", {"key": "AA==", "range_end": "AA=="}).get("kvs", [])
        keys = {
            _decoded(kv["key"]): (_decoded(kv.get("value", "")), kv.get("lease", "0"))
            for kv in found
        }
        return {k: v for k, v in keys.items() if not (without and k.startswith(without))}

    def revision(self) -> int:
        """Return the number of its last change."""
        answer = self.call("/kv/range", {"key": "AA==", "count_only": True})
        return int(answer["header"]["revision"])

    def compact(self) -> None:
        """Forget the past."""
        self.call("/kv/compaction", {"revision": str(self.revision()), "physical": True})

    def grant(self, seconds: int) -> str:
        """Grant a lease and return its id."""
        return str(self.call("/lease/grant", {"TTL": str(seconds)})["ID"])

    def revoke(self, lease: str) -> None:
        """End a lease, and with it all its keys."""
        self.call("/lease/revoke", {"ID": lease})

    def lease_lives(self, lease: str) -> bool:
        """Whether a lease has not ended; in its last second it has 0 left, and lives."""
        return int(self.call("/lease/timetolive", {"ID": lease}).get("TTL", "0")) >= 0

    def is_leader(self) -> bool:
        """Whether it leads its cluster."""
        status = self.call("/maintenance/status", {})
        return bool(status.get("leader", "0") == status["header"]["member_id"])

    def serves(self) -> bool:
        """Whether a quorum confirms a read."""
        with suppress(FetchError, AssertionError):
            return self.revision() > 0
        return False

    def listens(self) -> bool:
        """Whether it answers at all."""
        with suppress(FetchError):
            return self._api.call("GET", "/version").status == 200
        return False

    def enable_auth(self) -> None:
        """Switch logins on."""
        self.add_user(*ROOT, role="root")
        self.call("/auth/enable", {})
        self.login = ROOT

    def disable_auth(self) -> None:
        """Switch logins off."""
        self.call("/auth/disable", {})
        self.login = None

    def add_user(self, name: str, password: str, *, role: str = "", prefix: str = "") -> None:
        """Add a user with a role: one that there is, or one of its own over a prefix."""
        self.call("/auth/user/add", {"name": name, "password": password})
        self.call("/auth/role/add", {"name": role or name})
        if prefix:
            end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
            span = {"key": _encoded(prefix), "range_end": _encoded(end)}
            permission = {"permType": "READWRITE", **span}
            self.call("/auth/role/grant", {"name": role or name, "perm": permission})
        self.call("/auth/user/grant", {"user": name, "role": role or name})


class Nodes(list[Etcd]):
    """The members of a cluster."""

    def leader(self, among: Sequence[Etcd] | None = None) -> Etcd:
        """Wait until one of them, or of those given, leads; return it."""
        found: list[Etcd] = []

        def leads(node: Etcd) -> bool:
            with suppress(AgentError, AssertionError):
                return node.is_leader() and node.serves()
            return False

        def one() -> bool:
            found[:] = [node for node in among or self if leads(node)]
            return bool(found)

        wait_until(one, "a member leads", limit=60.0)
        return found[0]


@contextmanager
def etcd(version: str, *, tls: bool = False, ready: bool = True, **more: str) -> Iterator[Etcd]:
    """
    Run one member that is a cluster, until the block ends.

    With *tls* it wants client certificates; *more* are further flags. Not *ready*: its API
    is not waited for.
    """
    folder = Path(tempfile.mkdtemp(prefix="etcd-"))
    try:
        if tls:
            make_certificates(folder)
            _make_nameless(folder)
        first, second = free_ports(2)
        place = Place("one", "127.0.0.1", (first, second))
        with Etcd(folder, version, [place], place, tls=folder if tls else None, **more) as node:
            node.wait_ready(node.serves if ready else node.listens)
            yield node
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(version: str, places: Sequence[Place] = ()) -> Iterator[Nodes]:
    """Run a cluster of three, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="etcd-"))
    ports = iter(free_ports(6))
    where = places or [Place(f"m{n}", "127.0.0.1", (next(ports), next(ports))) for n in range(3)]
    try:
        with ExitStack() as stack:
            nodes = Nodes(stack.enter_context(Etcd(folder, version, where, one)) for one in where)
            for node in nodes:
                node.wait_ready(node.serves)
            yield nodes
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def shared(version: str) -> Etcd:
    """
    Return a member that all tests of this process share; it ends with the process.

    Use prefixes of your own, and do not stop it.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(etcd(version))


def _make_nameless(folder: Path) -> None:
    """Make a client certificate without a common name, which is the only kind a gateway takes."""
    _openssl(folder, f"{NEW} -subj /O=agents -keyout nameless.key -out nameless.csr")
    signed_by = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile client.ext"
    _openssl(folder, f"x509 -req -days 2 -in nameless.csr {signed_by} -out nameless.pem")


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def _decoded(text: str) -> str:
    return b64decode(text).decode()
