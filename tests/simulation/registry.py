"""A registry, as it behaves on a bad day. The truth is in here."""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from deregister_agent.errors import RegistryError
from deregister_agent.model import Snapshot, Straggler
from deregister_agent.ports import Registry
from tests.simulation.plan import RegistryPlan
from tests.simulation.timeline import Parked, Waiters

if TYPE_CHECKING:
    from tests.simulation.world import World

TIMEOUT = 1.5  # seconds after which a call that hangs ends


class FakeRegistry(Registry):
    """
    A registry with a catalog that may lag behind what it was told.

    ``listed`` is what its consumers act on, and what lists() tells.
    """

    def __init__(self, world: "World", name: str, how: RegistryPlan) -> None:
        self.world, self.name, self.how = world, name, how
        self.keeps = how.lease > 0
        self.runs_out = inf  # when the agent's lease ends; inf while nothing hangs on it
        self.told: Snapshot | None = None  # the registration that it was told of last
        self.listed = False
        self.changed = 0.0  # when listed changed
        self.old_routes = 0.0  # until when its stragglers may send work
        self.old_clients = 0.0  # until when clients may use a route it gave them before
        self.known: tuple[float, bool] | None = None  # what the agent heard last: as of when, what
        self.agents_error = 0.0  # when a look of the agent failed last
        self.others_count = world.plan.others
        self.down_until = self.hangs_until = 0.0
        self.blip = 0.0  # when somebody else made it let go
        self.removed: Snapshot | None = None  # what the agent has made it forget
        self._by_agent = False
        self._version = 0
        self._waiters = Waiters(world.timeline)

    # --- truth ---

    @property
    def sends(self) -> bool:
        """Whether work may come from here now, by what the policy was told of its clients."""
        return self.listed or self.world.now < max(self.old_routes, self.old_clients)

    @property
    def reaches(self) -> bool:
        """Whether work may come from here now, clients that use a route for too long included."""
        too_long = self.world.plan.late_clients
        return self.sends or (too_long > 0 and self.world.now < self.old_clients + too_long)

    def put(self, registration: Snapshot | None, *, by_agent: bool = False) -> None:
        """Be told to list the instance, or not to; its catalog follows."""
        self.told, self._by_agent = registration, by_agent
        if not by_agent:
            self.removed = None  # somebody else has the last word
            self.runs_out = inf
        if self.how.lag:
            self.world.timeline.after(self.how.lag, self._follow)
        else:
            self._follow()

    def _follow(self) -> None:
        listed = self.told is not None
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

    def stragglers(self) -> Sequence[Straggler]:
        """Tell of old routes, and note what the agent will have heard of this look."""
        when, listed = self.world.now, self.listed
        busy = not listed and when < self.old_routes
        job = self.world.host.job
        assert job is not None
        job.on_answer.append(lambda: self._heard(when, sends=listed or busy))
        return (Straggler("old worker 7"),) if busy else ()

    def _heard(self, when: float, *, sends: bool) -> None:
        self.known = (when, sends)

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
        return self.told

    def withdraw(self) -> None:
        """Let go, or fail, or do both, or say so and do nothing."""
        if self._meets_write("withdraw it"):
            self.world.checks.withdraws(self)
            self._when_heard(None)
        self._fail_afterwards("withdraw it")

    def restore(self, snapshot: Snapshot | None) -> None:
        """List it again, if there is something to list and nobody else has done so."""
        if self._meets_write("restore it") and self.told is None:
            self.world.checks.restores(self, snapshot)
            if snapshot is None and not self.how.app_registers:
                snapshot = self.world.app.registration()
            if snapshot is not None:
                self._when_heard(snapshot)
        self._fail_afterwards("restore it")

    def keep(self, snapshot: Snapshot | None) -> float:
        """Prolong the lease of what was restored; restore it if that has ended."""
        if self._meets_write("prolong the lease of it") and self.runs_out < inf:
            self.world.checks.keeps(self)
            if self.world.now < self.runs_out:
                self._prolong()
            elif self.told is None and snapshot is not None:
                self.world.checks.restores(self, snapshot)
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
