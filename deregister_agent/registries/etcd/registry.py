"""
etcd v3: the key, or the member of a shared document, by which an instance is found.

Withdraw deletes the key and leaves its lease alone: other keys may hang on it, and most
frameworks register again when their lease ends, but not when their key does. Every read
is linearizable, so "not there" is the word of a quorum.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from deregister_agent.config.options import ClientTlsOptions, RegistryOptions, Secret, Timeout
from deregister_agent.errors import AgentError, ConfigError, RegistryError, UnrecognisedError
from deregister_agent.host.addresses import joined
from deregister_agent.model import Instance, Snapshot
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.ports import Registry
from deregister_agent.registries.etcd.cluster import Cluster, Endpoint, EtcdLogin
from deregister_agent.registries.etcd.entries import DocumentEntry, EtcdEntry, KeyEntry
from deregister_agent.registries.etcd.key_finder import KeyFinder
from deregister_agent.registries.etcd.keys import KeyRange
from deregister_agent.registries.etcd.layouts import (
    LAYOUTS,
    KeyLayout,
    LayoutName,
    LookAlike,
    Match,
    WrittenAddress,
)
from deregister_agent.registries.etcd.look_alikes import Surroundings
from deregister_agent.registries.etcd.not_ours import AGENTS, NotOurs
from deregister_agent.registries.etcd.operations import EtcdOperation
from deregister_agent.registries.etcd.other_registrations import OtherKeys, around

BODY_LIMIT = 16_777_216
"""Of an answer, in bytes: all instances of a service have to fit in."""


class Options(RegistryOptions, ClientTlsOptions):
    """How to reach etcd, and how the instance is written there."""

    identity_keys: ClassVar[frozenset[str]] = frozenset(
        {"endpoints", "layout", "prefix", "match", "key", "address", "mode", "pointer"}
    )
    endpoints: tuple[str, ...] = ("http://127.0.0.1:2379",)
    """The client URLs of the cluster's members; the others are tried when one does not answer."""
    layout: LayoutName | None = None
    """Which framework writes the keys; it gives prefix and match."""
    prefix: str = ""
    """What the keys of the service's instances begin with; a slash at the end is added."""
    match: Match | None = None
    """Where in a key below prefix the address is: in the last part of its name, in its value,
    or in either, which is the default."""
    key: str = ""
    """The instance's key, or the document's; then prefix is only used to count the others."""
    address: str = ""
    """The instance as etcd has it, host:port; its own address and port unless given."""
    mode: Literal["key", "document"] = "key"
    """Whether the instance has a key, or is one of several members in the document at key."""
    pointer: str = ""
    """Where in the document the list or object of members is: a JSON pointer (RFC 6901)."""
    not_ours: tuple[str, ...] = ()
    """What mentions the instance and sends it no work: keys, or all that begin with one that ends
    in a slash; in a document members or places, as the error names them."""
    lease: Literal["app", "agent"] = "app"
    """What the key is put back on: the lease that it had, while that lives; or one of the agent's,
    which it prolongs for as long as the app is ready."""
    lease_ttl: Annotated[float, Field(ge=5, le=3600)] = 30.0
    """Seconds that the agent's lease outlives the agent, or the app's being ready."""
    user: str = ""
    """The user to log in as, with a password."""
    password: Secret | None = None
    """The password of that user."""
    timeout: Timeout = 3.0
    """The limit of one operation, in seconds, with all its calls."""

    def withdraws(self, instance: Instance) -> tuple[str, str] | None:
        """Return the cluster and the key, where that is named."""
        del instance
        named = self.mode == "key" and self.key
        return (" ".join(sorted(self.endpoints)), self.key) if named else None


class Etcd(Registry):
    """One instance in etcd."""

    def __init__(
        self,
        options: Options,
        cluster: Cluster,
        who: str,
        entry: EtcdEntry,
        surroundings: Surroundings,
    ) -> None:
        self.name = options.label
        self._options, self._who, self._cluster, self._entry = options, who, cluster, entry
        self._surroundings = surroundings
        self.keeps = options.lease == "agent"

    def lists(self) -> bool:
        """Ask a quorum whether the key, or the member of the document, is there."""
        with self._doing("look up") as operation:
            return self._entry.listed(operation)

    def look_alikes(self) -> Sequence[str]:
        """Name keys, or members, with the instance's address; or some of those that are there."""
        with self._doing("look for what looks like") as operation:
            return self._surroundings.sentences(operation)

    def other_registrations(self) -> Sequence[str]:
        """Name keys below the prefix, or parts of the document, that mention it and would stay."""
        with self._doing("look for other registrations of") as operation:
            return self._entry.other_registrations(operation)

    def others(self) -> int | None:
        """Count the other instances below the prefix or in the document; None without either."""
        with self._doing("count the others of") as operation:
            return self._entry.others(operation)

    def snapshot(self) -> Snapshot | None:
        """Keep key, value and lease; of a document the member and where it stands."""
        with self._doing("take a snapshot of") as operation:
            return self._entry.snapshot(operation)

    def withdraw(self) -> None:
        """Delete the key, or write the document without the member, if nobody was faster."""
        with self._doing("withdraw") as operation:
            self._entry.withdraw(operation)

    def restore(self, snapshot: Snapshot | None) -> None:
        """Put the instance back as it was, unless it is there: a key on its old lease, or not."""
        with self._doing("restore") as operation:
            self._entry.restore(operation, snapshot)

    def keep(self, snapshot: Snapshot | None) -> float:
        """Prolong the agent's lease, three times in its life."""
        with self._doing("prolong the lease of") as operation:
            self._entry.keep(operation, snapshot)
        return self._options.lease_ttl / 3

    def notes(self, snapshot: Snapshot | None) -> Sequence[str]:
        """Say what becomes of the key when its lease ends, or that the key has none."""
        note = self._entry.note(snapshot) if snapshot else ""
        return (f"{self.name}: {note}",) if note else ()

    def watch(self, cursor: str | None, timeout: float) -> str | None:
        """Wait for a change that concerns the instance; the cursor is a revision."""
        with self._doing("watch", timeout if cursor else None) as operation:
            if cursor is None:
                return str(operation.revision(self._entry.keys))
            return str(operation.watch(self._entry.keys, int(cursor), self._entry.concerns))

    @contextmanager
    def _doing(self, doing: str, timeout: float | None = None) -> Iterator[EtcdOperation]:
        try:
            yield EtcdOperation(self._cluster, timeout or self._options.timeout)
        except LookAlike as e:
            raise UnrecognisedError(self.name, f"{doing} {self._who}", e) from e
        except AgentError as e:
            raise RegistryError(self.name, f"{doing} {self._who}", e) from e
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as e:
            why = f"the answer is not one of etcd's ({type(e).__name__}: {e})"
            raise RegistryError(self.name, f"{doing} {self._who}", why) from e


def build(options: Options, instance: Instance) -> Etcd:
    """Make the registry. Raises ConfigError; touches no network."""
    mistakes = _mistakes(options)
    own = joined(instance.address, instance.port)
    address = WrittenAddress.parse(options.address or own)
    if address is None:
        mistakes.append(f"address: {options.address!r} is not host:port")
    endpoints = []
    for url in options.endpoints:
        try:
            endpoints.append(Endpoint(url, _fetcher(options, url)))
        except FetchError as e:
            mistakes.append(f"endpoints: {e}")
    if mistakes or address is None:
        raise ConfigError(f"registry {options.label}", mistakes)
    login = EtcdLogin(options.user, options.password) if options.password else None
    cluster = Cluster(endpoints, login)
    return Etcd(options, cluster, *_entry(options, instance.service, address))


def _mistakes(options: Options) -> list[str]:
    document = options.mode == "document"
    by_address = options.layout is not None or bool(options.prefix)
    by_key = bool(options.key) and not by_address and not document
    found = {
        "endpoints: give at least one": not options.endpoints,
        "key: give key, or layout or prefix": not options.key and not by_address,
        'key: mode = "document" needs the key of the document': document and not options.key,
        'prefix: mode = "document" has no use for layout, prefix and match': document
        and (by_address or options.match is not None),
        "match: only with prefix or layout it has a use": by_key and options.match is not None,
        "address: only with prefix or layout it has a use": by_key and bool(options.address),
        'lease: only mode = "key" has a use for "agent"': document and options.lease == "agent",
        "lease_ttl: it must be more than twice timeout": options.lease == "agent"
        and options.lease_ttl <= 2 * options.timeout,
        'pointer: only mode = "document" has a use for it': bool(options.pointer) and not document,
        "pointer: it must begin with a slash": not options.pointer.startswith("/")
        and bool(options.pointer),
        "prefix: it must not be all keys": bool(options.prefix) and not options.prefix.strip("/"),
        "user: give user and password": bool(options.user) != (options.password is not None),
        "certificate: give certificate and certificate_key": (options.certificate is None)
        != (options.certificate_key is None),
    }
    return [mistake for mistake, made in found.items() if made]


def _entry(
    options: Options, service: str, address: WrittenAddress
) -> tuple[str, EtcdEntry, Surroundings]:
    """Return what to call the instance in errors, how it is written, and what stands near it."""
    key, not_ours = options.key, NotOurs(options.not_ours)
    if options.mode == "document":
        document = DocumentEntry(key, options.pointer, address, not_ours)
        near = Surroundings(address, key=key, pointer=options.pointer, not_ours=not_ours)
        return f"{address} in {key}", document, near
    layout = LAYOUTS[options.layout] if options.layout else KeyLayout("", match="either")
    if options.match is not None:
        layout = replace(layout, match=options.match)
    prefix = _prefix(options, layout, service)
    _refuse_too_much(options, not_ours, key or prefix)
    if not prefix:
        near = Surroundings(address, key=key, not_ours=not_ours)
        beside = _beside(key, address, layout, not_ours)
        return key, KeyEntry(key, None, _lease_ttl(options), beside), near
    finder = KeyFinder(KeyRange.below(prefix), address, layout, not_ours)
    beside = OtherKeys(finder, key.encode(), around=around(prefix, layout))
    near = Surroundings(address, "" if key else prefix, layout, key, not_ours=not_ours)
    entry = KeyEntry(key, finder, _lease_ttl(options), beside)
    return key or f"{address} below {prefix}", entry, near


def _prefix(options: Options, layout: KeyLayout, service: str) -> str:
    """Return what the keys of the service begin with; empty where only one key is known."""
    if options.layout is None and not options.prefix:
        return ""
    return (options.prefix or layout.prefix_of(service)).rstrip("/") + "/"


def _lease_ttl(options: Options) -> float | None:
    return options.lease_ttl if options.lease == "agent" else None


def _beside(
    key: str, address: WrittenAddress, layout: KeyLayout, not_ours: NotOurs
) -> OtherKeys | None:
    """Return who finds other keys in the folder of a named one; None where that is all keys."""
    folder = key[: key.rfind("/") + 1]
    if not folder.strip("/"):
        return None
    finder = KeyFinder(KeyRange.below(folder), address, layout, not_ours)
    return OtherKeys(finder, key.encode(), strict=True)


def _refuse_too_much(options: Options, not_ours: NotOurs, own: str) -> None:
    """Raise ConfigError where the instance itself would be among what is not ours."""
    if not_ours.covers(own):
        mistake = (
            f"not_ours: {own!r}, which is the instance's own, must not be among it, nor below a "
            f"folder {AGENTS}, which is for what agents write"
        )
        raise ConfigError(f"registry {options.label}", [mistake])


def _fetcher(options: Options, url: str) -> Fetcher:
    return Fetcher(
        url,
        timeout=options.timeout,
        tls_files=options.tls_files,
        body_limit=BODY_LIMIT,
    )
