"""A registry, as it behaves on a bad day. The truth is in here."""

from collections.abc import Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from deregister_agent.errors import RegistryError
from deregister_agent.model import (
    UNFINISHED,
    Listing,
    Look,
    Phase,
    Process,
    Snapshot,
    Straggler,
)
from deregister_agent.ports import Registry
from tests.simulation.plan import RegistryPlan
from tests.simulation.presence_plan import NamePlan
from tests.simulation.timeline import Parked, Waiters

if TYPE_CHECKING:
    from tests.simulation.world import World

TIMEOUT = 1.5  # seconds after which a call that hangs ends


class FakeRegistry(Registry):
    """
    A registry with a catalog that may lag behind what it was told.

    ``listed`` is what its consumers act on, and what lists() tells. They act on what is
    there under another name, too, of which the agent's look tells nothing; whether
    other_registrations() does hangs on the plan.
    """

    def __init__(self, world: "World", name: str, how: RegistryPlan, names: NamePlan) -> None:
        self.world, self.name, self.how, self.names = world, name, how, names
        self.keeps = how.lease > 0
        self.runs_out = inf  # when the agent's lease ends; inf while nothing hangs on it
        self.told: Snapshot | None = None  # the registration that it was told of last
        self.told_at = self.read_at = 0.0  # when that was, and when the agent last asked for it
        self.elsewhere = False  # whether it was told of another name
        self.out_by = ""  # by what an operator has it out, and
        self.listed_by: object = None  # the last process in whose time it was here
        self.marked_before: bool | None = False  # whether since before the drain; None: unsure
        self.held_out = False  # whether the agent has it out, where that takes a mark, too
        self.listed = self.listed_elsewhere = False
        self.elsewhere_since = 0.0  # from when on consumers have the other name
        self.shown_out_by: str | None = None  # None: the instance is not there, or it is listed
        self.changed = 0.0  # when listed changed
        self.old_routes = 0.0  # until when its stragglers may send work
        self.old_clients = 0.0  # until when clients may use a route it gave them before
        self.known: tuple[float, bool] | None = None  # what the agent heard last: as of when, what
        self.heard_since = 0.0  # since when the agent has heard from it that it sends work
        self.known_out_by = ""  # and by whose mark it was out
        self.ever_shown = False  # whether the agent has ever heard, and written, that it has it
        self._shown_to: object = None  # the life of the agent that was shown it on a request
        self.agents_error = 0.0  # when a look of the agent failed last
        self.others_count = world.plan.others
        self.down_until = self.hangs_until = 0.0
        self.blip = 0.0  # when somebody else made it let go
        self.removed: Snapshot | None = None  # what the agent has made it forget
        self._by_agent = self.told_by_agent = False
        self._version = 0
        self._waiters = Waiters(world.timeline)

    # --- truth ---

    @property
    def sends(self) -> bool:
        """Whether work may come by the agent's name, by what the policy says of its clients."""
        return self.listed or self.world.now < max(self.old_routes, self.old_clients)

    @property
    def reaches(self) -> bool:
        """Whether work may come from here now, clients that use a route for too long included."""
        too_long = self.world.plan.late_clients
        return (
            self.sends
            or self.listed_elsewhere
            or (too_long > 0 and self.world.now < self.old_clients + too_long)
        )

    def meets(self, before: Process | None) -> None:
        """Note that a process has begun that took the place of the one *before*."""
        ours = self.listed_by == before or self.removed is not None  # by who took it out
        crashed = self.world.phase in UNFINISHED and ours
        if self.listed or self.shown_out_by is not None or crashed:
            self.listed_by = self.world.app.process

    @property
    def shown_since_start(self) -> bool:
        """Whether the agent's name has been there since the process of now was."""
        return (
            self.listed or self.shown_out_by is not None or self.listed_by == self.world.app.process
        )

    def put(self, registration: Snapshot | None, *, by_agent: bool = False) -> None:
        """Be told to list the instance, or not to; its catalog follows."""
        self._by_agent = self.told_by_agent = by_agent
        if by_agent:
            self._obey(registration)
        else:
            self.removed = None  # somebody else has the last word
            self.runs_out, self.held_out = inf, False
            self._take(registration)
        self._follow_soon()

    def _take(self, registration: Snapshot | None) -> None:
        """Take what the app or an operator says, under the name that they have for it."""
        if registration is None:
            self.told, self.elsewhere, self.out_by = None, False, ""
        elif self.names.misnamed or self.world.app.renamed:
            self.elsewhere = True
        else:
            self.told, self.told_at = registration, self.world.now

    def _obey(self, registration: Snapshot | None) -> None:
        """Do what the agent says; where there are marks, there is one, and one owner of it."""
        if self.names.marks and self.told is not None:
            self.held_out = registration is None and not self.out_by
        else:
            self.told, self.held_out = registration, False

    def lose(self) -> None:
        """Lose everything that it was ever told."""
        self.put(None)

    def set_mark(self, mark: str) -> None:
        """Let an operator have it out, or lift that."""
        if self.told is not None or not mark:
            self.out_by, self.held_out, self._by_agent = mark, False, False
            if self.world.phase is Phase.SERVING:
                self.marked_before = None
            self._follow_soon()

    def _follow_soon(self) -> None:
        if self.how.lag:
            self.world.timeline.after(self.how.lag, self._follow)
        else:
            self._follow()

    def _follow(self) -> None:
        out = self.told is not None and (bool(self.out_by) or self.held_out)
        self.shown_out_by = self.out_by if out else None
        if self.elsewhere != self.listed_elsewhere:
            self.listed_elsewhere, self.elsewhere_since = self.elsewhere, self.world.now
            verb = "lists" if self.elsewhere else "does not list"
            self.world.say(f"{self.name} {verb} it under another name")
        listed = self.told is not None and not out
        if self.told is not None:
            self.listed_by = self.world.app.process
        if listed == self.listed:
            return
        self.listed, self.changed = listed, self.world.now
        if not listed:
            self.old_routes = self.world.now + self.how.stragglers
            if not self._by_agent:
                self.blip = self.world.now
            if self._by_agent:  # an agent that never saw it listed could not wait for these
                self.old_clients = self.world.now + self.world.plan.policy.settle
        self.world.say(f"{self.name} {'lists' if listed else 'does not list'} it")
        self._version += 1
        self._waiters.wake()

    def _prolong(self) -> None:
        self.runs_out = self.world.now + self.how.lease
        self.world.timeline.at(self.runs_out, self._run_out)

    def _run_out(self) -> None:
        if self.world.now >= self.runs_out and self.told is not None:
            self.world.say(f"the lease in {self.name} has ended")
            self.told = None
            self._follow()

    # --- the port ---

    def lists(self) -> bool:
        """Tell the truth, or raise."""
        self._meet("list instances")
        return self.listed

    def look(self) -> Look:
        """Tell the truth of the name that the agent looks for, or raise."""
        self._meet("list instances")
        if self.listed:
            return Look(Listing.LISTED, self.stragglers())
        mark = self.shown_out_by
        listing = Listing.ABSENT if mark is None else Listing.OUT
        return Look(listing, self.stragglers(), mark or "")

    def other_registrations(self) -> Sequence[str]:
        """Tell of the other name, if anybody is to see it."""
        self._meet("look for other names")
        return ("another name",) if self.names.tells and self.listed_elsewhere else ()

    def stragglers(self) -> Sequence[Straggler]:
        """Tell of old routes, and note what the agent will have heard of this look."""
        when, listed, mark = self.world.now, self.listed, self.shown_out_by
        busy = not listed and when < self.old_routes
        job = self.world.host.job
        assert job is not None
        heard = partial(self._heard, when, mark or "", listed=listed, sends=listed or busy)
        if self.world.host.at_once and (listed or mark is not None):
            self._shown_to = self.world.host.life
        if not self.world.host.at_once:  # what is seen before a drain is no word in it
            job.on_answer.append(heard)
        return (Straggler("old worker 7"),) if busy else ()

    @property
    def was_shown(self) -> bool:
        """Whether the agent knows that it has had the instance."""
        return self.ever_shown or self._shown_to is self.world.host.life

    def _heard(self, when: float, mark: str, *, listed: bool, sends: bool) -> None:
        if self.known is None or when >= self.known[0]:  # else an action's own look, late
            if sends and not (self.known and self.known[1]):
                self.heard_since = when
            self.known, self.known_out_by = (when, sends), mark
        self.ever_shown |= listed or bool(mark)  # old routes alone show nobody

    def others(self) -> int | None:
        """Count the others."""
        self._meet("count instances")
        return self.others_count if self.how.counts else None

    def watch(self, cursor: str | None, timeout: float) -> str | None:
        """Hold the call until something changes."""
        if not self.how.watches:
            return None
        self._meet("watch")
        job = self.world.host.job
        assert job is not None
        if cursor == str(self._version) and self.world.now < job.asked + timeout:
            raise Parked(self._waiters, job.asked + timeout)
        return str(self._version)

    def snapshot(self) -> Snapshot | None:
        """Return the registration as it is now."""
        self._meet("read the registration")
        self.read_at = self.world.now
        return self.told

    def withdraw(self) -> None:
        """Let go, or fail, or do both, or say so and do nothing."""
        if self._meets_write("withdraw it"):
            self.world.checks.withdraws(self)
            self._when_heard(None)
        self._fail_afterwards("withdraw it")

    def restore(self, snapshot: Snapshot | None) -> None:
        """List it again, if there is something to list and nobody else has done so."""
        if self._meets_write("restore it"):
            self.world.checks.serving.asks_to_restore(self)
            if self.held_out and self.told is not None:
                self._when_heard(self.told)
            elif self.told is None:
                self._restore(snapshot)
        self._fail_afterwards("restore it")

    def _restore(self, snapshot: Snapshot | None) -> None:
        self.world.checks.serving.restores(self, snapshot)
        if snapshot is None and not self.how.app_registers and not self.names.misnamed:
            snapshot = self.world.app.registration()
        if snapshot is not None:
            self._when_heard(snapshot)

    def keep(self, snapshot: Snapshot | None) -> float:
        """Prolong the lease of what was restored; restore it if that has ended."""
        if self._meets_write("prolong the lease of it") and self.runs_out < inf:
            self.world.checks.keeps(self)
            if self.world.now < self.runs_out:
                self._prolong()
            elif self.told is None and snapshot is not None:
                self.world.checks.serving.restores(self, snapshot)
                self._when_heard(snapshot)
        self._fail_afterwards("prolong the lease of it")
        return self.how.lease / 3

    def _when_heard(self, registration: Snapshot | None) -> None:
        """Take a write; one that was on its way when its agent died arrives later."""
        if self.world.host.life is self.world.dying:
            phase = self.world.phase
            delay = self.world.chance.uniform(0.0, 1.0)
            self.world.timeline.after(delay, lambda: self._late(registration, phase))
        else:
            self.put(registration, by_agent=True)
            if registration is not None and self.keeps:
                self._prolong()

    def _late(self, registration: Snapshot | None, phase: str) -> None:
        # Nothing tells a registry that a write is older than the agent's next word: where
        # the next one has come first, no agent could mend it, so that is not simulated.
        if self.world.phase == phase:
            self.put(registration)

    # --- faults ---

    def _meet(self, doing: str) -> None:
        self.world.host.pause()
        job = self.world.host.job
        assert job is not None
        if self.world.now < self.hangs_until or self.world.fault(self.world.plan.hang_rate):
            job.answer_in += TIMEOUT
            self._fail(doing, "no answer in time")
        if self.world.now < self.down_until or self.world.fault(self.world.plan.error_rate):
            self._fail(doing, "connection refused")

    def _fail(self, doing: str, why: str) -> None:
        self.agents_error = self.world.now
        assert self.world.host.job is not None
        self.world.host.job.faulty = True
        raise RegistryError(self.name, doing, why)

    def _meets_write(self, doing: str) -> bool:
        self._meet(doing)
        return not self.world.fault(self.world.plan.lie_rate)

    def _fail_afterwards(self, doing: str) -> None:
        if self.world.fault(self.world.plan.error_rate):
            self._fail(doing, "the answer was cut off")
