"""
Consul, through the agent that holds the registration.

"200 OK" proves nothing here: the agent says so and tells the catalog later, which may
refuse (agent/local/state.go, "deregistration blocked by ACLs"). And a token that may not
read gets an empty list instead of an error. So only a consistent read of the catalog by
a token that may read the service counts.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from deregister_agent.errors import AgentError, ConfigError, RegistryError, UnrecognisedError
from deregister_agent.host.addresses import host_and_port
from deregister_agent.host.own_addresses import is_of_its_host
from deregister_agent.model import Instance, Listing, Look, Snapshot
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.ports import Registry
from deregister_agent.registries.consul import reasons
from deregister_agent.registries.consul.definition import lost, read_definition
from deregister_agent.registries.consul.look_alikes import LookAlikes
from deregister_agent.registries.consul.operations import (
    CatalogEntry,
    ConsulOperation,
    LookAlike,
    RegisteredService,
)
from deregister_agent.registries.consul.options import Options, mistakes
from deregister_agent.registries.consul.other_registrations import Wanted, find, sidecar_of
from deregister_agent.registries.consul.watch import OwnEntries

__all__ = ["REASON", "Consul", "Options", "build"]

REASON = "withdrawn by deregister-agent"
"""The reason of our own maintenance: restore() lifts no other."""
GIVE_UP = 0.25
"""The part of the timeout that is left for the answer of the last look."""
Complaint = Callable[[CatalogEntry | None], str]
"""Says of the instance's entry what is not yet as it should be; empty where all is."""


class Consul(Registry):
    """One instance in Consul."""

    def __init__(
        self, options: Options, service: RegisteredService, own: OwnEntries, fetcher: Fetcher
    ) -> None:
        self.name = options.label
        self._options, self._service, self._own = options, service, own
        self._fetcher = fetcher
        self._unseen: Sequence[str] = ()  # by the last search for others; for notes() alone

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
            alike = LookAlikes(self._own, self._service.name, self._options.not_ours)
            return alike.sentences(operation)

    def other_registrations(self) -> Sequence[str]:
        """
        Name other IDs, services and proxies that lead to the instance.

        Looked for on the agent, on its node, on nodes with the instance's address and in its
        service. What a name stands for is asked within the timeout; notes() then says what
        could not be told, or seen.
        """
        maintains = self._options.mode == "maintenance"
        wanted = Wanted(self._own, self._service.name, self._options.not_ours, maintains)
        with self._doing("look for what else sends work to") as operation:
            found = find(operation, wanted)
        self._unseen = tuple(found.unseen)
        return found.sentences

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
            held = operation.held() is not None
            maintains = self._options.mode == "maintenance"
            complaint = self._not_maintained if maintains else self._still_listed
            if held and maintains:
                operation.maintain(reason=REASON)
            elif held:
                operation.deregister()
            self._until(operation, complaint if held else partial(_in_catalog_alone, complaint))
            if not maintains:
                self._refuse_sidecar(operation)

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
        """Say what a restore will not bring back, and where others were not looked for."""
        missing = self.lost_by_restoring(snapshot or {})
        notes = []
        if missing:
            notes.append(
                f"{self.name}: restoring {self._service.id} does not bring back {missing}: "
                "set definition to a file that has them"
            )
        if self._unseen:
            notes.append(
                f"{self.name}: whether anything else there sends work to {self._service.id} was "
                f"looked for without {'; '.join(self._unseen)}"
            )
        return notes

    def _register_reaped(self, operation: ConsulOperation, snapshot: Snapshot | None) -> None:
        """
        Register what has gone while it was in maintenance, or say at once whose turn it is.

        Not without its checks: who chose maintenance relies on them to be kept.
        """
        if self._options.restore_by == "app":
            raise AgentError(f"{reasons.REAPED}: {reasons.LEFT_TO_APP}")
        missing = "" if self._options.definition else lost(snapshot or {})
        if missing:
            raise AgentError(
                f"{reasons.REAPED}, and its snapshot does not bring back {missing}: "
                f"{reasons.LEFT_TO_APP}, or set definition to a file that has them"
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
            raise AgentError("there is neither a snapshot nor a definition: " + reasons.LEFT_TO_APP)
        operation.register(definition)
        reason = before.get("maintenance")
        if isinstance(reason, str) and reason != REASON:
            operation.maintain(reason=reason or "as before the drain")

    def _until(self, operation: ConsulOperation, complaint: Complaint) -> None:
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

    def _refuse_sidecar(self, operation: ConsulOperation) -> None:
        """Raise AgentError if the service's sidecar has stayed, though Consul takes it out too."""
        sidecar = sidecar_of(self._service.id)
        if sidecar not in self._options.not_ours and sidecar in operation.sidecars():
            raise AgentError(reasons.sidecar_stays(sidecar, self._options.not_ours))

    def _still_listed(self, entry: CatalogEntry | None) -> str:
        return "" if entry is None else reasons.BLOCKED

    def _not_maintained(self, entry: CatalogEntry | None) -> str:
        return "" if entry is None or self._service.maintenance in entry.critical else reasons.LATE

    def _not_yet_listed(self, entry: CatalogEntry | None) -> str:
        if entry is None:
            by_app = self._options.restore_by == "app"
            return f"the catalog does not list it yet{': ' + reasons.LEFT_TO_APP if by_app else ''}"
        checks = [f"{id_} ({notes})" if notes else id_ for id_, notes in entry.critical.items()]
        return f"it is there, but critical: {', '.join(checks)}" if checks else ""

    def _ours(self, entries: Sequence[CatalogEntry], node: str | None) -> CatalogEntry | None:
        """Return the entry of this instance; IDs are unique only within a node."""
        found = (e for e in entries if e.id == self._service.id and node in (None, e.node))
        return next(found, None)

    def _refuse_twin(self, entries: Sequence[CatalogEntry], node: str | None) -> None:
        """Raise LookAlike if another entry sends work to this very address all the same."""
        for entry in filter(self._own.is_here, entries):
            here = node in (None, entry.node)
            left_out = entry.id in self._options.not_ours
            if not left_out and (here or not is_of_its_host(entry.address)):
                raise LookAlike(reasons.twin(entry, self._service.id, self._options.not_ours))

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


def _in_catalog_alone(complaint: Complaint, entry: CatalogEntry | None) -> str:
    """Return a complaint about what the agent never had, and so cannot have taken out."""
    return reasons.IN_CATALOG_ALONE if complaint(entry) else ""


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
