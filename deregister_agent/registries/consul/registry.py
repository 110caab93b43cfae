"""
Consul, through the agent that holds the registration.

"200 OK" proves nothing here: the agent says so and tells the catalog later, which may
refuse (agent/local/state.go, "deregistration blocked by ACLs"). And a token that may not
read gets an empty list instead of an error. So only a consistent read of the catalog by
a token that may read the service counts.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from deregister_agent.errors import AgentError, ConfigError, RegistryError, UnrecognisedError
from deregister_agent.host.addresses import host_and_port, joined
from deregister_agent.model import Instance, Listing, Look, Snapshot
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.ports import Registry
from deregister_agent.registries.consul.definition import lost, read_definition
from deregister_agent.registries.consul.look_alikes import LookAlikes
from deregister_agent.registries.consul.operations import (
    CatalogEntry,
    ConsulOperation,
    LookAlike,
    RegisteredService,
)
from deregister_agent.registries.consul.options import Options, mistakes
from deregister_agent.registries.consul.watch import OwnEntries

__all__ = ["REASON", "Consul", "Options", "build"]

REASON = "withdrawn by deregister-agent"
"""The reason of our own maintenance: restore() lifts no other."""
BLOCKED = (
    "the agent has let go of it and the catalog still lists it: its sync may be blocked, see "
    "'blocked by ACLs' in Consul's log and give the agent itself a token with node:write"
)
LATE = "the agent has put it into maintenance and the catalog does not show it yet"
LEFT_TO_APP = "the app has to register itself"
REAPED = (
    "Consul does not have it any more, although it was only in maintenance: somebody has "
    "deregistered it, or Consul has reaped it for being critical (DeregisterCriticalServiceAfter)"
)
GIVE_UP = 0.25
"""The part of the timeout that is left for the answer of the last look."""


class Consul(Registry):
    """One instance in Consul."""

    def __init__(
        self, options: Options, service: RegisteredService, own: OwnEntries, fetcher: Fetcher
    ) -> None:
        self.name = options.label
        self._options, self._service, self._own = options, service, own
        self._fetcher = fetcher

    def lists(self) -> bool:
        """Ask the catalog; in maintenance mode a critical instance gets no work."""
        return self.look().listed

    def look(self) -> Look:
        """Ask the catalog: in maintenance mode what is critical is out, by whatever check."""
        with self._doing("look up") as operation:
            entries, _ = operation.entries(only=self._own.filter)
            # To learn the node's name costs as much as all the rest, and it matters only if
            # there is an entry, or where ACLs may keep one from us.
            node = operation.node() if self._own.among(entries) else None
            entry = self._ours(entries, node)
            if entry is not None:
                out = self._options.mode == "maintenance" and bool(entry.critical)
                return Look(Listing.OUT if out else Listing.LISTED, out_by=self._out_by(entry))
            self._refuse_twin(entries, node)
            if self._options.token is not None or not operation.is_open():
                operation.check_rights(node or operation.node())
            # What the agent holds, the catalog will have in a moment.
            return Look(Listing.ABSENT if operation.held() is None else Listing.LISTED)

    def look_alikes(self) -> Sequence[str]:
        """Name services with the instance's port at its place, or with an ID or name like its."""
        with self._doing("look for what looks like") as operation:
            return LookAlikes(self._own, self._service.name).sentences(operation)

    def others(self) -> int | None:
        """Count the other instances that are passing or warning."""
        with self._doing("count the others of") as operation:
            entries, _ = operation.entries()
            ours = self._ours(entries, operation.node())
            return sum(entry != ours and not entry.critical for entry in entries)

    def snapshot(self) -> Snapshot | None:
        """Keep the service as the agent has it, its maintenance, and the names of the rest."""
        with self._doing("take a snapshot of") as operation:
            return operation.snapshot()

    def withdraw(self) -> None:
        """Deregister or put into maintenance, and wait until the catalog has the service so."""
        with self._doing("withdraw") as operation:
            if operation.held() is not None:
                if self._options.mode == "maintenance":
                    operation.maintain(reason=REASON)
                else:
                    operation.deregister()
            self._until(operation, self._still_listed)

    def restore(self, snapshot: Snapshot | None) -> None:
        """Lift our maintenance or register again, and wait until the catalog shows it healthy."""
        with self._doing("restore") as operation:
            if self._options.mode == "maintenance":
                reason = operation.checks().get(self._service.maintenance)
                if reason == REASON:
                    operation.maintain(reason=None)
                elif reason is None and operation.held() is None:
                    self._register_reaped(operation, snapshot)
            elif self._options.restore_by == "agent" and operation.held() is None:
                self._register(operation, snapshot)
            self._until(operation, self._not_yet_listed)

    def watch(self, cursor: str | None, timeout: float) -> str | None:
        """Wait until something about the instance may have changed in the catalog."""
        with self._doing("watch", timeout) as operation:
            # Consul waits up to a sixteenth longer, and the answer has a way to go.
            return self._own.watch(operation, cursor, timeout * 0.8)

    def lost_by_restoring(self, snapshot: Snapshot) -> str:
        """Name the checks and sidecars that come back only with a definition, or with the app."""
        options = self._options
        registers = options.mode == "deregister" and options.restore_by == "agent"
        return lost(snapshot) if registers and options.definition is None else ""

    def notes(self, snapshot: Snapshot | None) -> Sequence[str]:
        """Say which checks and sidecars a restore will not bring back."""
        missing = self.lost_by_restoring(snapshot or {})
        note = (
            f"{self.name}: restoring {self._service.id} does not bring back {missing}: "
            "set definition to a file that has them"
        )
        return (note,) if missing else ()

    def _register_reaped(self, operation: ConsulOperation, snapshot: Snapshot | None) -> None:
        """
        Register what has gone while it was in maintenance, or say at once whose turn it is.

        Not without its checks: who chose maintenance relies on them to be kept.
        """
        if self._options.restore_by == "app":
            raise AgentError(f"{REAPED}: {LEFT_TO_APP}")
        missing = "" if self._options.definition else lost(snapshot or {})
        if missing:
            raise AgentError(
                f"{REAPED}, and its snapshot does not bring back {missing}: {LEFT_TO_APP}, or "
                "set definition to a file that has them"
            )
        self._register(operation, snapshot)

    def _register(self, operation: ConsulOperation, snapshot: Snapshot | None) -> None:
        """Register the service as it was, in maintenance if somebody had it so before us."""
        before = snapshot or {}
        if self._options.definition is not None:
            definition = read_definition(self._options.definition, self._service.id)
        elif isinstance(kept := before.get("service"), dict):
            definition = kept
        else:
            raise AgentError("there is neither a snapshot nor a definition: " + LEFT_TO_APP)
        operation.register(definition)
        reason = before.get("maintenance")
        if isinstance(reason, str) and reason != REASON:
            operation.maintain(reason=reason or "as before the drain")

    def _until(
        self, operation: ConsulOperation, complaint: Callable[[CatalogEntry | None], str]
    ) -> None:
        """Read the catalog until there is no complaint; raise the one that is left at the end."""
        index = ""
        spare = self._options.timeout * GIVE_UP
        while True:
            wait = max(operation.left() - spare, 0.001)
            entries, index = operation.entries(index, wait, self._own.filter)
            node = operation.node() if self._own.among(entries) else None
            why = complaint(self._ours(entries, node))
            if not why:
                return
            if operation.left() <= spare:
                raise AgentError(why)

    def _still_listed(self, entry: CatalogEntry | None) -> str:
        if entry is None:
            return ""
        if self._options.mode == "maintenance":
            return "" if self._service.maintenance in entry.critical else LATE
        return BLOCKED

    def _not_yet_listed(self, entry: CatalogEntry | None) -> str:
        if entry is None:
            by_app = self._options.restore_by == "app"
            return f"the catalog does not list it yet{': ' + LEFT_TO_APP if by_app else ''}"
        checks = [f"{id_} ({notes})" if notes else id_ for id_, notes in entry.critical.items()]
        return f"it is there, but critical: {', '.join(checks)}" if checks else ""

    def _ours(self, entries: Sequence[CatalogEntry], node: str | None) -> CatalogEntry | None:
        """Return the entry of this instance; IDs are unique only within a node."""
        found = (e for e in entries if e.id == self._service.id and node in (None, e.node))
        return next(found, None)

    def _refuse_twin(self, entries: Sequence[CatalogEntry], node: str | None) -> None:
        """Raise LookAlike if another entry sends work to this very address all the same."""
        for entry in filter(self._own.is_here, entries):
            if node in (None, entry.node) or not entry.is_of_its_node:
                raise LookAlike(
                    f"{joined(entry.address, entry.port)} is also registered as {entry.id!r} on "
                    f"node {entry.node}, which would still send it work: set url or service_id to "
                    f"where the app is registered (service_id = {json.dumps(entry.id)}), or "
                    "deregister that one"
                )

    def _out_by(self, entry: CatalogEntry) -> str:
        """Say by what maintenance of somebody else's an entry is out; empty if by none."""
        ours, node = self._service.maintenance, "_node_maintenance"
        reason = entry.critical.get(ours, REASON)
        found = [f"maintenance: {reason}"] if reason != REASON else []
        if node in entry.critical:
            found.append(f"maintenance of node {entry.node}: {entry.critical[node]}")
        return "; ".join(found)

    @contextmanager
    def _doing(self, doing: str, timeout: float | None = None) -> Iterator[ConsulOperation]:
        try:
            yield ConsulOperation(self._fetcher, self._service, timeout or self._options.timeout)
        except LookAlike as e:
            raise UnrecognisedError(self.name, f"{doing} {self._service.id}", e) from e
        except AgentError as e:
            raise RegistryError(self.name, f"{doing} {self._service.id}", e) from e
        except (KeyError, TypeError, AttributeError, ValueError) as e:
            why = f"the answer is not one of Consul's ({type(e).__name__}: {e})"
            raise RegistryError(self.name, f"{doing} {self._service.id}", why) from e


def build(options: Options, instance: Instance) -> Consul:
    """Make the registry. Raises ConfigError; touches no network."""
    service_id = options.service_id or instance.name
    wrong = list(mistakes(options, service_id))
    try:
        fetcher = _fetcher(options)
    except FetchError as e:
        wrong.append(f"url: {e}")
    if wrong:
        raise ConfigError(f"registry {options.label}", wrong)
    name = options.service or instance.service
    service = RegisteredService(
        name, service_id, options.node, options.datacenter, options.namespace
    )
    address = host_and_port(options.address) or (instance.address, instance.port)
    return Consul(options, service, OwnEntries(service_id, *address), fetcher)


def _fetcher(options: Options) -> Fetcher:
    token = options.token
    return Fetcher(
        options.url,
        timeout=options.timeout,
        headers=(lambda: {"X-Consul-Token": token.read()}) if token else None,
        tls_files=options.tls_files,
        body_limit=16_777_216,
    )
