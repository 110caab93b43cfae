"""Real etcd: one node of either version, with logins and TLS or without, and a cluster of three."""

import atexit
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import requests
from etcd3gw import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception
from etcd3gw.lease import Lease
from requests import RequestException

from deregister_agent.demo.stage import free_ports
from tests.servers import find
from tests.servers.certificates import NEW, _openssl, make_certificates
from tests.servers.child import Child, wait_until

VERSIONS = ("3.4", "3.5")
ROOT = ("root", "root-password")
Keyspace = dict[str, tuple[str, str]]
"""Each key with its value and the id of its lease."""


@dataclass(frozen=True)
class MemberAddress:
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

    ``url`` is where clients reach it. Its methods are what apps and operators do, by etcd3gw,
    so that no client of ours proves itself.
    """

    def __init__(
        self,
        folder: Path,
        version: str,
        members: Sequence[MemberAddress],
        place: MemberAddress,
        *,
        tls: Path | None = None,
        **more: str,
    ) -> None:
        scheme = "https" if tls else "http"
        self.folder = folder
        self.place, self.version = place, version
        self.url = f"{scheme}://{place.host}:{place.ports[0]}"
        self.login: tuple[str, str] | None = None
        self.client = _client(scheme, place, tls)
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
        """Call what etcd3gw has no call for: logins, compaction, and how a member is."""
        return self._logged_in().post(self.client.get_url(path), json=payload)

    def _logged_in(self) -> Etcd3Client:
        """Return the client, with a fresh token where there are logins: etcd3gw knows none."""
        headers = self.client.session.headers
        headers.pop("Authorization", None)
        if self.login:
            who = dict(zip(("name", "password"), self.login, strict=True))
            answer = self.client.post(self.client.get_url("/auth/authenticate"), json=who)
            headers["Authorization"] = answer["token"]
        return self.client

    def put(self, key: str, value: str | bytes, lease: str = "0") -> None:
        """Write a key, as an app would."""
        client = self._logged_in()
        content = value if isinstance(value, bytes) else value.encode()
        client.put(key.encode(), content, Lease(int(lease), client))

    def get(self, key: str) -> str | None:
        """Return the value of a key; None if it is not there."""
        found = self._logged_in().get(key.encode())
        return found[0].decode() if found else None

    def delete(self, key: str) -> None:
        """Delete a key."""
        self._logged_in().delete(key.encode())

    def clear(self, prefix: str) -> None:
        """Delete all keys that begin with *prefix*."""
        self._logged_in().delete_prefix(prefix)

    def keyspace(self, *, without: str = "") -> Keyspace:
        """Return every key there is, but those that begin with *without*, if it is given."""
        keys = {
            kv["key"].decode(): (value.decode(errors="backslashreplace"), str(kv.get("lease", "0")))
            for value, kv in self._logged_in().get_all()
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
        return str(self._logged_in().lease(seconds).id)

    def revoke(self, lease: str) -> None:
        """End a lease, and with it all its keys."""
        Lease(int(lease), self._logged_in()).revoke()

    def lease_lives(self, lease: str) -> bool:
        """
        Whether a lease has not ended; in its last second it has 0 left, and lives.

        Not by etcd3gw's ttl(), which fails in that second: etcd leaves a 0 out.
        """
        return int(self.call("/lease/timetolive", {"ID": lease}).get("TTL", "0")) >= 0

    def is_leader(self) -> bool:
        """Whether it leads its cluster."""
        status = self.call("/maintenance/status", {})
        return bool(status.get("leader", "0") == status["header"]["member_id"])

    def serves(self) -> bool:
        """Whether a quorum confirms a read."""
        with suppress(Etcd3Exception, RequestException):
            return self.revision() > 0
        return False

    def listens(self) -> bool:
        """Whether it answers at all."""
        with suppress(Etcd3Exception, RequestException):
            return bool(self.client.api_path)  # it asks for the version
        return False

    def close(self) -> None:
        """End it, and the connections to it."""
        super().close()
        self.client.session.close()

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
            with suppress(Etcd3Exception, RequestException):
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
        place = MemberAddress("one", "127.0.0.1", (first, second))
        with Etcd(folder, version, [place], place, tls=folder if tls else None, **more) as node:
            node.wait_ready(node.serves if ready else node.listens)
            yield node
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def cluster(version: str, places: Sequence[MemberAddress] = ()) -> Iterator[Nodes]:
    """Run a cluster of three, until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="etcd-"))
    ports = iter(free_ports(6))
    where = places or [
        MemberAddress(f"m{n}", "127.0.0.1", (next(ports), next(ports))) for n in range(3)
    ]
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


def _client(scheme: str, place: MemberAddress, tls: Path | None) -> Etcd3Client:
    session = requests.Session()
    session.trust_env = False  # REQUESTS_CA_BUNDLE would win over the CA given
    if tls:
        session.verify = str(tls / "ca.pem")
        session.cert = (str(tls / "nameless.pem"), str(tls / "nameless.key"))
    host, port = place.host, place.ports[0]
    return Etcd3Client(host, port, scheme, timeout=10.0, session=session)


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
