"""
The agent of another host: a gateway whose Nginx sends work to the instance here.

That agent does there what this one does here, so it is asked to, over its HTTP API.
Its "202 Accepted" and its phase prove nothing by themselves: what counts is what its
registries have said since.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from deregister_agent.config.options import ClientTlsOptions, RegistryOptions, Secret, Timeout
from deregister_agent.errors import (
    AgentError,
    ConfigError,
    RefusedThere,
    RegistryError,
    UnrecognisedError,
)
from deregister_agent.host.addresses import host_and_port, joined
from deregister_agent.model import Instance, Listing, Look, Phase, Snapshot, Straggler
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.ports import Registry
from deregister_agent.registries.agent.remote_status import (
    OUT,
    FarInstance,
    FarStatus,
    RefusedThereError,
    listing_of,
    not_out,
    odd,
    unlisted,
    what_blocks,
)

POLL = 0.05
"""Seconds between two questions to an agent that acts, or does not hold its answers."""
HELD = 0.8
"""The part of the limit of one call for which that agent may hold its answer."""
SHARE = 4
"""One call gets this part of the timeout, so that a hung gateway is found out soon."""

_ABSENT = "absent"
_MOST = 5  # look-alikes: they end up in one refusal


class _AnotherInstanceError(AgentError):
    """What has the name there is at another address than the instance here."""


class Options(RegistryOptions, ClientTlsOptions):
    """How to reach the other agent, and what to ask of it."""

    identity_keys: ClassVar[frozenset[str]] = frozenset({"url", "remote", "known_as"})
    url: str
    """The agent on the gateway: ``https://``, or ``http://`` and ``http+unix://`` on this host."""
    remote: str = ""
    """What the instance is called there; its name here unless given."""
    known_as: str = ""
    """Its address:port in the configuration there; its address and port here unless given."""
    deadline: Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)] = 86400.0
    """How long the drain there may take, in seconds; the deadline here ends it sooner."""
    force: bool = False
    """Whether to override the guard there, and leave it to the one here."""
    token: Secret | None = None
    """The bearer token of that agent."""
    timeout: Timeout = 12.0
    """The limit of one operation in seconds; one call to that agent gets a quarter of it."""

    @field_validator("known_as")
    @classmethod
    def _address_and_port(cls, known_as: str) -> str:
        if known_as and host_and_port(known_as) is None:
            raise ValueError("must be address:port, as in 10.0.0.7:8080 or [fd00::7]:8080")
        return known_as


class FarAgent(Registry):
    """One instance as the registries of another host list it."""

    def __init__(self, options: Options, instance: Instance, fetcher: Fetcher) -> None:
        self.name = options.label
        self._options = options
        self._called = options.remote or instance.name
        self._far = FarInstance(fetcher, self._called)
        self._reason = f"withdrawn by the agent of {instance.name}"
        self._known_as = options.known_as or joined(instance.address, instance.port)
        self._note = ""  # of the last look, for a person: nothing is decided by it

    def lists(self) -> bool:
        """
        Have the registries there asked, after this call, and tell what they say.

        While that agent withdraws, restores, or has given up, the answer is True.
        """
        return self.look().listed

    def look(self) -> Look:
        """Ask for both in one question: the same words tell of old workers, too."""
        with self._doing("look up") as end:
            status = self._status(end, look=self._held(end))
            self._note = "" if status is None else odd(status)
            if status is None:
                return Look(Listing.ABSENT)
            stragglers = [
                Straggler(f"{each.name}: {one}")
                for each in status.registries
                for one in each.stragglers
            ]
            listing = listing_of(status)
            by = self._other(status) if listing is Listing.OUT else ""
            return Look(listing, stragglers, f"traffic was stopped there by {by}" if by else "")

    def look_alikes(self) -> Sequence[str]:
        """Name the instances that the other agent has, those with our address first."""
        with self._doing("look for what is meant by") as end:
            wanted = host_and_port(self._known_as)
            there = [
                (one.name, joined(one.address, one.port))
                for one in self._far.instances(self._limit(end))
            ]
            there.sort(key=lambda one: host_and_port(one[1]) != wanted)
            return [
                f"that agent has {name} at {place}: remote = {json.dumps(name)}"
                for name, place in there[:_MOST]
            ]

    def notes(self, snapshot: Snapshot | None) -> Sequence[str]:
        """Say what was odd over there at the last look."""
        del snapshot
        return [self._note] if self._note else []

    def snapshot(self) -> Snapshot | None:
        """Keep who had stopped traffic there before, if anybody but us has."""
        with self._doing("take a snapshot of") as end:
            status = self._status(end)
            return None if status is None else {"stopped_by": self._other(status)}

    def withdraw(self) -> None:
        """Ask for stop-traffic, and wait until that agent has every registry's word for it."""
        with self._doing("withdraw") as end:
            before = self._status(end)
            if before is None:
                return
            wish = {
                "deadline": self._options.deadline,
                "on_deadline": "hold",
                "reason": self._reason,
                "force": self._options.force,
            }
            status = self._far.ask("stop-traffic", wish, self._limit(end))
            if before.phase is Phase.EXPIRED:
                raise AgentError("the drain there had expired; it has been asked for again")
            status = self._after(Phase.WITHDRAWING, status, end)
            if status.newer:
                raise AgentError(odd(status))
            if status.phase not in OUT:
                raise not_out(status)

    def restore(self, snapshot: Snapshot | None) -> None:
        """Ask for start-traffic if it was us who stopped it, and wait until it is back."""
        with self._doing("restore") as end:
            status = self._status(end)
            if status is not None and status.phase is Phase.SERVING and not status.newer:
                status = self._status(end, look=self._held(end))  # what was lost there since?
            if status is None:
                self._refuse_absent(snapshot)
                return
            if status.phase is Phase.SERVING and not unlisted(status) and not status.newer:
                return
            if status.phase is not Phase.RESTORING:
                status = self._started(status, snapshot, end)
            status = self._after(Phase.RESTORING, status, end)
            if status.newer or (status.phase is Phase.SERVING and unlisted(status)):
                raise AgentError(odd(status))
            if status.phase is not Phase.SERVING:
                raise AgentError(f"it is {status.phase} there: traffic was stopped again")

    def _refuse_absent(self, snapshot: Snapshot | None) -> None:
        """Raise AgentError unless it is by choice that nothing is there to be restored."""
        if snapshot is not None or self._options.absent == "refuse":
            raise AgentError(
                f"that agent has no instance called {self._called!r} now: whoever has removed it "
                "there may add it again"
            )

    def _started(self, status: FarStatus, snapshot: Snapshot | None, end: float) -> FarStatus:
        """Ask for start-traffic, unless it was somebody else who stopped it."""
        by = str((snapshot or {}).get("stopped_by") or "") or self._other(status)
        if by and status.phase is not Phase.SERVING:
            raise AgentError(
                f"traffic was stopped there by {by}, not by us; when it may go on, "
                f"run 'deregister-agent restore {self._called}' there"
            )
        wish = {"reason": "restored with the instance"}
        return self._far.ask("start-traffic", wish, self._limit(end))

    def stragglers(self) -> Sequence[Straggler]:
        """Name what the registries there name: old workers of that Nginx."""
        return self.look().stragglers

    def others(self) -> int | None:
        """Return the smallest count of others that a registry there has last told."""
        with self._doing("count the others of") as end:
            status = self._status(end)
            listings = () if status is None else status.registries
            return min((each.others for each in listings if each.others is not None), default=None)

    def watch(self, cursor: str | None, timeout: float) -> str:
        """Have that agent hold its answer until the phase or a registry's word is another one."""
        until = time.monotonic() + timeout
        with self._doing("watch") as end:
            now = self._cursor(min(until, end)) if cursor is None else cursor
            while now == cursor and (left := until - time.monotonic()) > 2 * POLL:
                limit = self._limit(inf)  # at its end an answer takes as long as before
                held = f"{min(left, limit * HELD):.3f}"
                now = self._cursor(time.monotonic() + limit, wait=held, cursor=now)
                if now == cursor:
                    time.sleep(POLL)  # that agent may be ending, and answer at once
            return now

    def _cursor(self, end: float, **question: str) -> str:
        status = self._status(end, **question)
        return _ABSENT if status is None else status.cursor

    def _status(self, end: float, **question: str) -> FarStatus | None:
        """Ask that agent; None where it has no such instance."""
        status = self._far.status(self._limit(end), **question)
        if status is None:
            return None
        there = joined(status.instance.address, status.instance.port)
        if host_and_port(there) != host_and_port(self._known_as):
            raise _AnotherInstanceError(
                f"{self._called} there is {there}, and here {self._known_as}: "
                "correct remote, or set known_as to what that agent calls this very instance"
            )
        return status

    def _after(self, phase: Phase, status: FarStatus, end: float) -> FarStatus:
        """Return the status once that agent has left *phase*."""
        while status.phase is phase:
            if time.monotonic() + POLL >= end:
                raise AgentError(f"not yet done there: {what_blocks(status)}")
            # Not held: a drain hangs on this, and the places for held answers may all be taken.
            time.sleep(POLL)
            status = self._status(end) or status
        return status

    def _other(self, status: FarStatus) -> str:
        """Return who else has stopped traffic there; empty if nobody has."""
        drain = status.drain
        if status.phase in {Phase.SERVING, Phase.RESTORING} or drain is None:
            return ""
        return "" if drain.reason == self._reason else drain.asked_by or "somebody"

    def _limit(self, end: float) -> float:
        left = end - time.monotonic()
        return max(0.01, min(left, self._options.timeout / SHARE))

    def _held(self, end: float) -> str:
        return f"{self._limit(end) * HELD:.3f}"

    @contextmanager
    def _doing(self, doing: str) -> Iterator[float]:
        """Give the end of the time that one operation has."""
        try:
            yield time.monotonic() + self._options.timeout
        except AgentError as e:
            where = f"{self._called} at {self._options.url}"
            if isinstance(e, RefusedThereError):
                raise RefusedThere(self.name, f"{doing} {where}", e) from e
            error = UnrecognisedError if isinstance(e, _AnotherInstanceError) else RegistryError
            raise error(self.name, f"{doing} {where}", e) from e


def build(options: Options, instance: Instance) -> FarAgent:
    """Make the registry. Raises ConfigError; touches no network."""
    token = options.token
    try:
        fetcher = Fetcher(
            options.url,
            timeout=options.timeout,
            headers=(lambda: {"Authorization": f"Bearer {token.read()}"}) if token else None,
            tls_files=options.tls_files,
        )
    except FetchError as e:
        raise ConfigError(f"registry {options.label}", [f"url: {e}"]) from e
    return FarAgent(options, instance, fetcher)
