"""Absence is believed only of what was seen present, and "serving" only of what is seen."""

from collections.abc import Callable
from functools import partial

import pytest

from deregister_agent.engine.actions import _put_back
from deregister_agent.errors import (
    CannotRestore,
    NeverSeen,
    ProcessError,
    Refused,
    RegistryError,
    StillListed,
    UnknownRegistry,
    UnrecognisedError,
)
from deregister_agent.model import (
    Announcement,
    DrainKind,
    OnDeadline,
    Outcome,
    Phase,
    Policy,
    StopRequest,
    Straggler,
)
from tests.unit.loop_bench import NEW, Bench, Check, ListRegistry, Make


def two(make: Make, **more: object) -> tuple[Bench, ListRegistry, ListRegistry]:
    """Return an instance in two registries, seen in both."""
    consul, nginx = ListRegistry("consul"), ListRegistry("nginx")
    bench = make(registries=[consul, nginx], **more)
    bench.go_on(0.5)
    return bench, consul, nginx


def gone(bench: Bench) -> Bench:
    """Let it be drained, killed and replaced."""
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.finder.running = NEW
    bench.until(Phase.GONE)
    return bench


def stands(bench: Bench) -> bool:
    """Tell whether "drained" stands, once everybody has been asked."""
    bench.loop.stands_by(Announcement.DRAINED)
    bench.go_on(0.5)
    return bench.loop.stands_by(Announcement.DRAINED)


def served(bench: Bench) -> bool | None:
    """Tell whether it takes traffic, once everybody has been asked."""
    asked = bench.clock.now()
    for view in bench.loop.known.registries:
        view.look_after(asked)
    bench.go_on(0.5)
    return bench.loop.is_served(asked)


def test_absent_and_never_seen_is_refused_before_anything_is_withdrawn(make: Make) -> None:
    """The sentence names what looks like it there."""
    consul, nginx = ListRegistry("consul"), ListRegistry("nginx")
    nginx.listed, nginx.alike = False, ["server 10.0.0.7:8081 (write server = ...)"]
    bench = make(registries=[consul, nginx])
    bench.go_on(0.5)
    with pytest.raises(NeverSeen, match=r"nginx does not show it.*server 10\.0\.0\.7:8081"):
        bench.stop(StopRequest(force=True))
    bench.go_on(5.0)
    assert (bench.phase, consul.did, nginx.did) == (Phase.SERVING, [], [])


def test_what_answers_too_late_and_was_never_seen_undoes_the_drain(make: Make) -> None:
    """No policy of the deadline is applied to that, and the other registry is put back."""
    consul, nginx = ListRegistry("consul"), ListRegistry("nginx")
    nginx.down, nginx.listed = True, False
    bench = make(Policy(quiet=1.0, min_others=0), registries=[consul, nginx])
    bench.stop(StopRequest(deadline=60, on_deadline=OnDeadline.KILL))
    bench.go_on(3.0)
    assert (bench.phase, consul.listed) == (Phase.WITHDRAWING, False)
    nginx.down = False
    bench.until(Phase.SERVING)
    assert bench.loop.drain.outcome is Outcome.REFUSED
    assert (consul.listed, nginx.did) == (True, [])
    told = [kind for decision in bench.written for kind in decision.announcements]
    assert told == [Announcement.SERVING]
    refused = next(one for one in bench.written if one.drain.phase is Phase.RESTORING)
    assert "nginx does not show it" in str(refused.detail["refused"])


def test_nobody_waits_for_one_that_never_showed_it(make: Make) -> None:
    """Where a drain expires before a registry answers, the others are put back all the same."""
    consul, nginx = ListRegistry("consul"), ListRegistry("nginx")
    nginx.down, nginx.listed = True, False
    bench = make(registries=[consul, nginx])
    bench.stop(StopRequest(deadline=2, on_deadline=OnDeadline.RESTORE))
    bench.until(Phase.RESTORING)
    bench.go_on(3.0)
    assert (bench.phase, consul.listed) == (Phase.RESTORING, True)
    nginx.down = False
    bench.until(Phase.SERVING)
    assert (consul.listed, nginx.did, served(bench)) == (True, [], None)


def test_what_was_seen_counts_although_it_has_gone_since(make: Make) -> None:
    """Somebody has taken it out before the drain; it is put back as it was last seen."""
    bench, consul, nginx = two(make)
    nginx.listed = False
    gone(bench).loop.start_traffic("", "")
    bench.until(Phase.SERVING)
    assert consul.did == ["withdraw", "restore {'weight': 5}"]
    assert nginx.did == ["withdraw", "restore {'weight': 5}"]


@pytest.mark.parametrize(("where", "counts"), [("here", True), ("elsewhere", False)])
def test_it_counts_for_the_next_agent_that_looks_in_the_same_place(
    make: Make, where: str, *, counts: bool
) -> None:
    """What was seen under other options proves nothing of what these look for."""
    registry = ListRegistry()
    bench = make(registries=[registry])
    bench.identities["memory"] = "here"
    bench.new_life()
    bench.go_on(0.5)
    registry.listed = False
    bench.identities["memory"] = where
    bench.new_life()
    if not counts:
        with pytest.raises(NeverSeen):
            bench.stop()
        return
    bench.stop()
    bench.until(Phase.DRAINED)


def test_options_that_change_while_it_is_out_end_no_drain(make: Make) -> None:
    """It was taken out by us, and stays so."""
    bench = make()
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.identities["memory"] = "elsewhere"
    bench.new_life()
    bench.go_on(3.0)
    assert stands(bench)
    assert bench.phase is Phase.DRAINED


def test_there_and_out_is_presence(make: Make) -> None:
    """An app that fails its check is deployed to for that very reason."""
    registry = ListRegistry()
    registry.out = True
    bench = make(registries=[registry])
    bench.stop()
    bench.until(Phase.DRAINED)


def test_a_process_takes_what_was_seen_of_it_along(make: Make) -> None:
    """The next version may have registered itself under another name."""
    bench = make()
    registry = bench.registries[0]
    bench.go_on(0.5)
    bench.finder.running, registry.listed = NEW, False
    with pytest.raises(NeverSeen):
        bench.stop()
    bench.go_on(40.0)
    with pytest.raises(NeverSeen):
        bench.stop()
    bench.new_life()
    bench.go_on(0.5)
    with pytest.raises(NeverSeen):
        bench.stop()
    registry.listed = True
    bench.go_on(40.0)
    registry.listed = False
    bench.stop()
    bench.until(Phase.DRAINED)


@pytest.mark.parametrize("again", [False, True])
def test_who_comes_in_mid_drain_is_out_only_where_we_took_it_out(
    make: Make, *, again: bool
) -> None:
    """What had gone before it says nothing of a process that comes in the course of it."""
    bench, consul, nginx = two(make)
    bench.finder.running, nginx.listed = None, False
    bench.page.in_flight = 1
    bench.stop()
    bench.until(Phase.DRAINING)
    bench.finder.running = NEW
    bench.go_on(3.0)
    bench.page.in_flight = 0
    if again:
        bench.new_life()
    bench.go_on(5.0)
    assert bench.phase is Phase.DRAINING
    assert "nginx does not show it, and has not shown it before" in bench.loop.status().what_blocks
    assert "consul" not in bench.loop.status().what_blocks
    nginx.listed = True
    bench.until(Phase.DRAINED)
    assert not consul.listed


def test_what_was_seen_of_nobody_knows_whom_is_seen_again(make: Make) -> None:
    """The registry's word may come before it is known which process it is about."""
    bench = make()
    bench.finder.sees = False
    bench.go_on(0.5)
    bench.finder.sees = True
    bench.go_on(40.0)
    bench.finder.running, bench.registries[0].listed = NEW, False
    bench.new_life()
    bench.go_on(0.5)
    with pytest.raises(NeverSeen):
        bench.stop()


def test_who_was_not_there_yet_when_it_was_seen_has_not_been_seen(make: Make) -> None:
    """What a registry has kept of a process that nobody met is no word on the one that came."""
    bench = make()
    bench.finder.running = None
    bench.go_on(0.5)
    bench.finder.running, bench.registries[0].listed = NEW, False
    with pytest.raises(NeverSeen):
        bench.stop()


def test_a_restore_of_what_was_lost_shows_nothing_of_the_next_version(make: Make) -> None:
    """The agent learns only in the course of it that another process is there."""
    check = Check()
    bench = make(ready=[check])
    bench.go_on(0.5)
    bench.finder.running, bench.registries[0].listed = NEW, False
    bench.start()
    bench.go_on(0.05)
    with pytest.raises(NeverSeen):
        bench.stop()


def test_after_the_kill_the_next_version_must_be_seen(make: Make) -> None:
    """That we had taken out the one before says nothing of it."""
    bench = gone(make())
    with pytest.raises(NeverSeen):
        bench.stop()
    bench.new_life()
    bench.go_on(0.5)
    with pytest.raises(NeverSeen):
        bench.stop()
    bench.registries[0].listed = True
    bench.stop()
    bench.until(Phase.DRAINED)


def test_one_may_vouch_for_a_registry(make: Make) -> None:
    """Its word is not waited for, and whoever reads of the drain is told so."""
    bench, consul, nginx = two(make)
    nginx.down = True
    bench.stop(StopRequest(vouch=("nginx",), reason="burnt down", asked_by="alice"))
    bench.until(Phase.DRAINED)
    assert stands(bench)
    note = "nginx: not waited for: vouched for by alice (burnt down)"
    assert note in bench.loop.status().notes
    drained = bench.written[-1]
    assert note in str(drained.detail["notes"])
    bench.loop.start_traffic("", "")
    bench.until(Phase.SERVING)
    assert consul.listed


def test_nobody_vouches_for_what_lists_it(make: Make) -> None:
    """Before the drain it is refused; later it is taken out after all."""
    bench, _, nginx = two(make)
    with pytest.raises(StillListed):
        bench.stop(StopRequest(vouch=("nginx",), reason="I know"))
    with pytest.raises(UnknownRegistry, match="it has: consul, nginx"):
        bench.stop(StopRequest(vouch=("ngnix",), reason="I know"))
    nginx.down = True
    bench.stop(StopRequest(vouch=("nginx",), reason="I know"))
    bench.until(Phase.DRAINED)
    nginx.down = False
    bench.until(Phase.WITHDRAWING)
    bench.until(Phase.DRAINED)
    assert not nginx.listed


def test_what_need_not_be_there_is_waited_for_neither_way(make: Make) -> None:
    """And is named in the answer."""
    consul, canary = ListRegistry("consul"), ListRegistry("canary")
    canary.listed = False
    bench = make(registries=[consul, canary], may_be_absent=frozenset({"canary"}))
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.DRAINED)
    assert "canary: not waited for" in str(bench.loop.status().notes)
    bench.loop.start_traffic("", "")
    bench.until(Phase.SERVING)
    assert "restore" not in str(canary.did)
    assert bench.loop.is_served(0.0)
    assert bench.loop.status().blocking == ()


def test_what_need_not_be_there_and_is_there_is_withdrawn_and_restored(make: Make) -> None:
    """Only its absence is excused."""
    bench, _, nginx = two(make, may_be_absent=frozenset({"nginx"}))
    gone(bench)
    assert not nginx.listed
    bench.loop.start_traffic("", "")
    bench.until(Phase.SERVING)
    assert nginx.listed


def test_who_had_it_out_before_has_it_out_afterwards(make: Make) -> None:
    """Restoring ends there, and the answer says whose turn it is."""
    bench, _, nginx = two(make)
    nginx.out, nginx.out_by = True, "down"
    gone(bench).loop.start_traffic("", "")
    bench.until(Phase.SERVING)
    bench.go_on(0.5)
    assert bench.loop.is_served(0.0) is False
    assert "as before the drain, by another hand (down)" in bench.loop.status().what_blocks
    assert nginx.out


@pytest.mark.parametrize("dies", [False, True])
def test_what_its_snapshot_alone_can_tell_was_out_stays_out(make: Make, dies: bool) -> None:
    """Where a look cannot tell whose doing it is, being out is what it is restored to."""
    bench, _, nginx = two(make)
    nginx.out, nginx.out_by, nginx.tells_by = True, "it was out before the drain", False
    gone(bench)
    if dies:
        bench.new_life()
    bench.loop.start_traffic("", "")
    bench.until(Phase.SERVING)
    bench.go_on(0.5)
    assert bench.loop.is_served(0.0) is False
    assert "it was out before the drain): theirs to end" in bench.loop.status().what_blocks
    nginx.out = False  # they have ended it
    bench.go_on(40.0)
    assert served(bench)
    nginx.out = True  # and now nobody knows whose doing it is
    assert served(bench) is None


def test_a_restore_that_comes_late_lifts_nothing(make: Make) -> None:
    """It serves already, and the snapshot has gone: the last good registration is no order."""
    bench, _, nginx = two(make)
    nginx.out, nginx.out_by = True, "down"
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.loop.start_traffic("", "")
    known = bench.loop.known
    restoring = known.drain
    late = partial(_put_back, known, known.registries[1])
    bench.until(Phase.SERVING)
    nginx.did.clear()
    late()
    known.drain = restoring  # written down, and not yet taken in
    late()
    assert nginx.did == []


def test_a_mark_is_left_alone_only_where_it_is_there_still(make: Make) -> None:
    """Not by a word from before start-traffic: whoever set it may have deregistered it since."""
    nginx = ListRegistry("nginx")
    nginx.out, nginx.out_by = True, "down"
    check = Check()
    bench = make(registries=[nginx], ready=[check])
    bench.stop()
    bench.until(Phase.DRAINED)
    nginx.out, nginx.out_by = False, ""
    bench.loop.start_traffic("", "")
    bench.go_on(1.0)
    assert bench.phase is Phase.RESTORING
    check.ready = True
    bench.until(Phase.SERVING)
    assert nginx.listed


def test_what_is_out_by_our_hand_is_not_left_alone(make: Make) -> None:
    """Theirs was lifted in mid-drain, and then it was we who took it out."""
    nginx, check = ListRegistry("nginx"), Check()
    nginx.out, nginx.out_by = True, "down"
    bench = make(registries=[nginx], ready=[check])
    bench.stop()
    bench.until(Phase.DRAINED)
    nginx.out_by = ""
    bench.loop.start_traffic("", "")
    bench.go_on(2.0)
    assert bench.phase is Phase.RESTORING
    nginx.out, check.ready = False, True
    bench.until(Phase.SERVING)
    assert nginx.listed


@pytest.mark.parametrize("again", [False, True])
def test_a_mark_that_came_during_the_drain_is_waited_for(make: Make, *, again: bool) -> None:
    """It was in service before, so it is not restored yet: whose turn it is, is said at once."""
    bench, _, nginx = two(make)
    bench.stop()
    bench.until(Phase.DRAINED)
    nginx.listed, nginx.out, nginx.out_by = True, True, "maintenance: disk"
    bench.loop.start_traffic("", "")
    if again:
        bench.new_life()
    bench.go_on(5.0)
    assert bench.phase is Phase.RESTORING
    assert "nginx has it out by another hand (maintenance: disk)" in str(bench.loop.status())


def test_serving_is_what_is_seen_and_not_the_phase(make: Make) -> None:
    """A registration that has vanished is red, and is put back by start-traffic."""
    check = Check()
    check.ready = True
    bench, consul, _ = two(make, ready=[check])
    assert bench.loop.is_served(0.0)
    consul.listed = False
    asked = bench.clock.now()
    assert bench.loop.is_served(asked) is None
    bench.go_on(40.0)
    assert bench.loop.is_served(0.0) is None
    assert "consul does not list it: to put it back" in bench.loop.status().what_blocks
    bench.start()
    record = bench.loop.drain
    assert (record.phase, record.kind, bool(record.id)) == (
        Phase.RESTORING,
        DrainKind.RESTORE,
        True,
    )
    assert "consul: as it was at 2" in str(bench.written[-1].detail["put_back"])
    bench.until(Phase.SERVING)
    assert consul.did == ["restore {'weight': 5}"]
    assert bench.loop.drain.outcome is Outcome.RESTORED
    bench.start()
    assert bench.phase is Phase.SERVING


def test_what_is_lost_is_put_back_only_for_a_reason(make: Make) -> None:
    """Without a readiness check only if somebody says so; never without its checks."""
    bench, consul, nginx = two(make)
    consul.listed, consul.lost = False, "its checks"
    with pytest.raises(CannotRestore, match="no readiness check"):
        bench.start()
    with pytest.raises(CannotRestore, match="would not bring back its checks"):
        bench.start(anyway=True)
    consul.lost = ""
    nginx.out, nginx.out_by = True, "down"
    bench.start(anyway=True)
    bench.until(Phase.SERVING)
    assert (consul.listed, nginx.did) == (True, [])


def test_a_restore_of_what_was_lost_ends_with_the_next_drain(make: Make) -> None:
    """Its record says so, and the drain is another one."""
    bench, consul, _ = two(make)
    consul.listed = False
    bench.start(anyway=True)
    consul.down = True
    restore = bench.loop.drain
    bench.go_on(1.0)
    bench.stop()
    assert bench.loop.drain.id != restore.id
    past, _ = bench.journal.drain(bench.loop.instance.name, restore.id) or (None, None)
    assert past is not None
    assert past.drain.outcome is Outcome.CANCELLED


def test_a_drain_that_was_refused_leaves_nothing_behind_that_passes_for_serving(make: Make) -> None:
    """What it did not put back is missing still, and is said so; what is lost later comes back."""
    consul, nginx = ListRegistry("consul"), ListRegistry("nginx")
    nginx.down, nginx.listed = True, False
    bench = make(registries=[consul, nginx])
    bench.stop()
    nginx.down = False
    bench.go_on(3.0)
    assert (bench.phase, bench.loop.drain.outcome) == (Phase.SERVING, Outcome.REFUSED)
    assert served(bench) is None
    assert "nginx does not show it, and has not shown it before" in bench.loop.status().what_blocks
    consul.listed = False
    bench.start(anyway=True)
    bench.until(Phase.SERVING)
    assert (consul.listed, nginx.did, served(bench)) == (True, [], None)
    nginx.listed = True
    assert served(bench)


def test_nobody_is_vouched_for_who_has_shown_it_since(make: Make) -> None:
    """Later, a registration that it loses is missing, and is put back, as any other is."""
    bench, _, nginx = two(make)
    nginx.down = True
    bench.stop(StopRequest(vouch=("nginx",), reason="burnt down"))
    bench.until(Phase.DRAINED)
    bench.loop.start_traffic("", "")
    bench.until(Phase.SERVING)
    assert served(bench)
    nginx.down = False
    bench.go_on(40.0)
    nginx.listed = False
    assert served(bench) is None
    bench.start(anyway=True)
    bench.until(Phase.SERVING)
    assert nginx.listed
    assert served(bench)


def test_one_that_never_was_in_service_is_not_put_back(make: Make) -> None:
    """Its app may be about to register itself: nothing is under way, and it is not serving."""
    registry = ListRegistry()
    registry.listed = False
    bench = make(registries=[registry])
    bench.go_on(0.5)
    bench.start()
    assert (bench.phase, bench.loop.is_served(0.0)) == (Phase.SERVING, None)
    registry.listed = True
    assert served(bench)


def nobody_yet(make: Make) -> tuple[Bench, ListRegistry]:
    """Return an instance that was never here: the first deploy to this host."""
    registry = ListRegistry()
    registry.listed = False
    bench = make(registries=[registry])
    bench.finder.running, bench.page.down = None, True
    bench.go_on(0.5)
    return bench, registry


def test_nobody_is_there_to_be_drained(make: Make) -> None:
    """It takes as long as an app must be quiet, and tells nobody to kill anything."""
    bench, _ = nobody_yet(make)
    with pytest.raises(NeverSeen):
        bench.stop()
    bench.stop(StopRequest(if_present=True))
    took = bench.until(Phase.DRAINED)
    assert took >= bench.policy.quiet
    assert bench.loop.drain.outcome is Outcome.ABSENT
    assert stands(bench)
    assert not any(decision.announcements for decision in bench.written)
    bench.new_life()
    bench.go_on(3.0)
    assert stands(bench)
    bench.finder.running = NEW
    bench.until(Phase.GONE)
    assert not bench.loop.stands_by(Announcement.DRAINED)
    bench.registries[0].listed = True
    bench.until(Phase.SERVING)


def test_who_comes_before_that_is_withdrawn_and_drained(make: Make) -> None:
    """Its registration has shown that it is looked for in the right place."""
    bench, registry = nobody_yet(make)
    bench.stop(StopRequest(if_present=True))
    bench.go_on(0.5)
    bench.finder.running, bench.page.down, registry.listed = NEW, False, True
    bench.page.in_flight = 1
    bench.go_on(5.0)
    assert not registry.listed
    assert bench.phase is Phase.DRAINING
    bench.page.in_flight = 0
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.outcome is Outcome.DRAINED
    assert bench.loop.drain.process == NEW


@pytest.mark.parametrize("trace", ["process", "registration", "connection"])
def test_where_somebody_was_it_is_a_drain_as_any_other(make: Make, trace: str) -> None:
    """A supervisor may be about to start it again."""
    bench, registry = nobody_yet(make)
    bench.finder.unsure = trace == "connection"
    bench.finder.running = NEW if trace == "process" else None
    registry.listed = trace == "registration"
    bench.go_on(40.0)
    bench.finder.running, registry.listed = None, False
    if trace == "registration":
        bench.stop(StopRequest(if_present=True))
        bench.go_on(5.0)
        assert bench.phase is not Phase.DRAINED
        return
    with pytest.raises(NeverSeen):
        bench.stop(StopRequest(if_present=True))


def test_a_probe_that_answers_speaks_of_somebody(make: Make) -> None:
    """What it has in hand is waited for, and then for a whole quiet time."""
    bench, _ = nobody_yet(make)
    bench.page.down, bench.page.in_flight = False, 1
    bench.stop(StopRequest(if_present=True))
    bench.go_on(5.0)
    assert bench.phase is Phase.DRAINING
    assert "1 requests in flight" in bench.loop.status().what_blocks
    bench.page.in_flight = 0
    assert bench.until(Phase.DRAINED) >= bench.policy.quiet
    assert bench.loop.drain.outcome is Outcome.ABSENT


def test_who_is_there_must_be_known_where_an_absence_hangs_on_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen, and gone; but nobody can tell whether that was of the process that is there now."""
    bench = make()
    bench.go_on(0.5)
    bench.registries[0].listed = False

    def unknown(_: object) -> object:
        raise ProcessError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(bench.finder, "look", unknown)
        with pytest.raises(NeverSeen):
            bench.stop()
    bench.stop()
    bench.until(Phase.DRAINED)


def test_what_expired_is_held_out_of_a_registry_that_shows_it_late(make: Make) -> None:
    """It had never been seen there when it first answered; the hold is for whatever lists it."""
    bench, _, nginx = two(make)
    bench.identities["nginx"] = "elsewhere"
    bench.new_life()
    nginx.down = True
    bench.stop(StopRequest(deadline=2.0))
    bench.until(Phase.EXPIRED)
    nginx.down, nginx.listed = False, False
    bench.go_on(3.0)
    assert "nginx does not show it" in str(bench.loop.status())
    nginx.listed = True
    bench.go_on(10.0)
    assert (bench.phase, nginx.listed) == (Phase.EXPIRED, False)


def test_to_wait_for_a_word_does_not_spin(make: Make) -> None:
    """Whoever waits wakes the loop once for each question, not for each look at the answers."""
    bench = make()
    bench.go_on(0.5)
    wakes: list[None] = []
    bench.loop._wake = lambda: wakes.append(None)
    bench.clock.time += 10.0
    assert not any(bench.loop._is_heard(bench.clock.time) for _ in range(5))
    assert len(wakes) == 1
    bench.go_on(0.5)
    assert bench.loop._is_heard(bench.clock.time - 0.5)


def test_a_word_about_the_one_before_is_none_about_the_next(make: Make) -> None:
    """The process has been replaced; what was said before it was met does not count again."""
    bench = make()
    bench.go_on(0.5)
    known, [view] = bench.loop.known, bench.loop.known.registries
    bench.finder.running = NEW
    known.process.look_now()
    bench.loop.tick()
    bench.calls.run()
    bench.loop.tick()
    assert (known.process.app, view.sends, view.seen) == (NEW, True, False)


def test_serving_is_no_answer_by_an_old_word(make: Make) -> None:
    """Asked for after the question of before, and too long ago for this one."""
    bench = make()
    bench.go_on(0.5)
    assert bench.loop.is_served(0.0)
    bench.clock.time += 3.0
    assert bench.loop.is_served(0.0) is None


def test_one_may_vouch_for_a_registry_that_shows_what_is_not_recognised(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever vouches has seen to that; without it, stop-traffic is refused."""
    bench, _, nginx = two(make)

    def alike() -> object:
        raise UnrecognisedError("nginx", "look up a", "it has 'A', which is the same address")

    monkeypatch.setattr(nginx, "look", alike)
    with pytest.raises(NeverSeen, match="it has 'A'"):
        bench.stop()
    bench.stop(StopRequest(vouch=("nginx",), reason="I have seen to it"))
    bench.until(Phase.DRAINED)


def test_a_restore_that_comes_late_puts_nothing_back(make: Make) -> None:
    """Somebody has taken it out since it served again."""
    bench, _, nginx = two(make)
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.loop.start_traffic("", "")
    late = partial(_put_back, bench.loop.known, bench.loop.known.registries[1])
    bench.until(Phase.SERVING)
    nginx.listed = False
    nginx.did.clear()
    late()
    assert nginx.did == []


def test_drained_does_not_stand_on_an_absence_that_was_never_presence(make: Make) -> None:
    """As in a journal of before, whose drain had no snapshot of the registry."""
    bench = make()
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.DRAINED)
    assert stands(bench)
    bench.loop.known.registries[0].seen = False
    assert not stands(bench)
    assert "memory does not show it, and has not shown it before" in str(bench.loop.status())


def test_what_need_not_be_there_comes_back_only_from_what_was_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else start-traffic would wait for ever for what nobody has to put there."""

    def unreadable(_: ListRegistry) -> None:
        raise RegistryError("consul", "take a snapshot", "403 Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(ListRegistry, "snapshot", unreadable)
        bench, consul, _ = two(make, may_be_absent=frozenset({"consul"}))
    consul.listed = False
    bench.start(anyway=True)
    assert (bench.phase, consul.did) == (Phase.SERVING, [])
    consul.listed = True
    bench.go_on(40.0)  # it has shown it again, and this time it can be read
    consul.listed = False
    bench.start(anyway=True)
    bench.go_on(2.0)
    assert (bench.phase, consul.did) == (Phase.SERVING, ["restore {'weight': 5}"])


def test_a_look_that_fails_takes_nothing_back_of_what_was_vouched_against(make: Make) -> None:
    """Whoever lists it after all is waited for, until it says that it does not."""
    bench, consul, _ = two(make)
    consul.down = True
    bench.stop(StopRequest(vouch=("consul",)))
    bench.until(Phase.DRAINING)
    consul.down = False
    bench.until(Phase.WITHDRAWING)
    consul.down = True
    bench.go_on(10.0)
    assert (bench.phase, "consul" in bench.loop.status().what_blocks) == (Phase.WITHDRAWING, True)
    consul.down = False
    bench.until(Phase.DRAINED)
    assert not consul.listed


def test_old_routes_that_a_vouched_registry_has_told_of_are_waited_for(make: Make) -> None:
    """Also where the looks fail after that."""
    bench, consul, _ = two(make)
    consul.down = True
    bench.stop(StopRequest(vouch=("consul",)))
    bench.until(Phase.DRAINING)
    consul.down, consul.old_routes = False, [Straggler("old worker 7")]
    bench.until(Phase.WITHDRAWING)
    bench.go_on(2.0)
    assert (bench.phase, consul.listed) == (Phase.DRAINING, False)
    consul.down = True
    bench.go_on(10.0)
    assert bench.phase is Phase.DRAINING
    consul.down, consul.old_routes = False, []
    bench.until(Phase.DRAINED)


def test_what_start_traffic_is_told_in_service_is_remembered(make: Make) -> None:
    """A restore that comes later waits for a registry that has shown the instance then."""
    registry = ListRegistry()
    registry.listed = False
    bench = make(registries=[registry])
    bench.go_on(0.5)
    registry.listed = True
    bench.start()
    assert bench.loop.known.registries[0].seen_once
    registry.listed, registry.lies = False, 1000
    bench.stop(StopRequest(vouch=("memory",)))
    bench.until(Phase.DRAINED)
    bench.finder.running = NEW
    bench.until(Phase.GONE)
    bench.new_life()
    view = bench.loop.known.registries[0]
    assert (view.seen, view.seen_once) == (False, True)


@pytest.mark.parametrize("why", ["too few others", "vouched for, and listed"])
def test_what_a_refused_stop_traffic_is_told_is_remembered(make: Make, why: str) -> None:
    """A restore that comes later waits for a registry that has shown the instance then."""
    registry = ListRegistry()
    registry.listed, registry.count = False, 0
    bench = make(Policy(quiet=1.0, min_others=1), registries=[registry])
    bench.go_on(0.5)
    registry.listed = True
    vouch = ("memory",) if why.startswith("vouched") else ()
    with pytest.raises(Refused):
        bench.stop(StopRequest(vouch=vouch))
    assert bench.loop.known.registries[0].seen_once
    assert bench.phase is Phase.SERVING


def test_what_is_shown_while_a_withdraw_hangs_is_known_after_a_crash(make: Make) -> None:
    """Lost then, the registration is seen and gone; it was not looked for in a wrong place."""
    registry = ListRegistry()
    registry.down = True
    bench = make(registries=[registry])
    bench.stop()
    registry.down = False
    bench.loop.tick()
    del bench.calls.waiting[0]  # what would withdraw it hangs
    bench.go_on(1.0)
    assert (bench.phase, registry.did) == (Phase.WITHDRAWING, [])
    registry.listed = False
    bench.new_life()
    bench.until(Phase.DRAINED)


def test_work_by_the_last_routes_of_a_vouched_registry_is_waited_for(make: Make) -> None:
    """Nothing counts as idle that was read before the registry had ceased to send."""
    bench, consul, _ = two(make, policy=Policy(quiet=0.0, settle=0.0, min_others=0))
    consul.down, bench.page.in_flight = True, 1
    bench.stop(StopRequest(vouch=("consul",)))
    bench.until(Phase.DRAINING)
    consul.down, consul.listed, consul.old_routes = False, False, [Straggler("old worker 7")]
    bench.go_on(2.0)
    bench.page.in_flight = 0
    bench.go_on(2.0)

    later: list[Callable[[], None]] = []

    def ceases() -> None:
        consul.old_routes, consul.while_looking = [], lambda: None
        later.extend(bench.calls.waiting)  # what is read now is answered after that
        bench.calls.waiting.clear()

    consul.while_looking = ceases
    while consul.old_routes:
        bench.step(1.0)
    bench.page.in_flight = 1  # brought by the last of the old routes
    bench.loop.tick()
    assert bench.phase is Phase.DRAINING
    bench.calls.waiting.extend(later)
    bench.go_on(5.0)
    assert bench.phase is Phase.DRAINING
    bench.page.in_flight = 0
    bench.until(Phase.DRAINED)


def silent(make: Make, then: OnDeadline) -> tuple[Bench, ListRegistry, ListRegistry]:
    """Return an instance that is drained while the first of its registries does not answer."""
    consul, nginx = ListRegistry("consul"), ListRegistry("nginx")
    consul.down = True
    policy = Policy(deadline=5.0, quiet=1.0, min_others=0, on_deadline=then)
    bench = make(policy, registries=[consul, nginx])
    bench.go_on(0.5)
    bench.stop(StopRequest(force=True))
    return bench, consul, nginx


@pytest.mark.parametrize("dies", [False, True], ids=["", "agent-dies"])
def test_what_shows_it_first_when_it_is_put_back_is_waited_for(make: Make, *, dies: bool) -> None:
    """It was silent all through the drain, tells in mid-restore that it has it, and loses it."""
    bench, consul, nginx = silent(make, OnDeadline.RESTORE)
    nginx.lies = 1000  # so it is not restored for as long as the test wants
    nginx.listed = False
    bench.until(Phase.RESTORING)
    consul.down, consul.lies = False, 1000
    bench.go_on(12.0)
    if dies:
        bench.new_life()
        bench.go_on(0.1)
    consul.listed = False
    bench.go_on(6.0)
    nginx.lies, nginx.listed = 0, True
    bench.go_on(12.0)
    assert bench.phase is Phase.RESTORING
    consul.listed = True
    bench.until(Phase.SERVING)


def test_what_shows_the_next_version_and_loses_it_is_waited_for(make: Make) -> None:
    """It was silent until the process was replaced, and told of the new one for a moment."""
    bench, consul, _ = silent(make, OnDeadline.KILL)
    bench.until(Phase.EXPIRED)
    bench.finder.running = NEW
    bench.until(Phase.GONE)
    consul.down, consul.lies = False, 1000
    bench.go_on(8.0)
    consul.listed = False
    bench.go_on(8.0)
    bench.start()
    bench.go_on(8.0)
    assert bench.phase is Phase.RESTORING
    consul.listed = True
    bench.until(Phase.SERVING)


class Forgetful(ListRegistry):
    """A registry of which no snapshot can be taken: somebody has removed it, and it lags."""

    def snapshot(self) -> None:
        return None


def test_a_mark_that_comes_while_it_is_put_back_is_waited_for(make: Make) -> None:
    """That it is shown then for the first time does not say that it was so before the drain."""
    consul, nginx = Forgetful("consul"), ListRegistry("nginx")
    bench = make(registries=[consul, nginx])
    bench.go_on(0.5)
    gone(bench)
    consul.lies = 1000
    bench.start()
    bench.go_on(1.0)
    consul.out, consul.out_by = True, "down"
    bench.go_on(8.0)
    assert bench.phase is Phase.RESTORING
    consul.out, consul.listed = False, True
    bench.until(Phase.SERVING)


def test_what_need_not_be_there_is_not_waited_for_where_others_took_it_out(make: Make) -> None:
    """The drain was cancelled before it was withdrawn there, and there is nothing to put back."""
    consul, nginx = Forgetful("consul"), ListRegistry("nginx")
    bench = make(registries=[consul, nginx], may_be_absent=frozenset({"consul"}))
    bench.go_on(0.5)
    consul.lies = 1000
    bench.stop()
    bench.step(0.0)
    bench.start()
    consul.listed = False
    bench.until(Phase.SERVING)
    assert bench.loop.known.registries[0].seen_once
