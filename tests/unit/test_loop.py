"""The loop of one instance, step by step."""

import pytest

from deregister_agent.engine.probe_view import READ_BEHIND
from deregister_agent.errors import JournalError, Refused, RegistryError
from deregister_agent.model import (
    Announcement,
    OnDeadline,
    Outcome,
    Phase,
    Policy,
    RestoreWhen,
    StopRequest,
    Straggler,
)
from tests.unit.loop_bench import NEW, OLD, Bench, Check, ListRegistry, Make, Page


def drained(bench: Bench) -> Bench:
    """Take it to drained."""
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.DRAINED)
    return bench


def test_a_drain_goes_all_the_way_and_back(make: Make) -> None:
    """Stop, drained, killed, replaced, start: the registry gets back what it had."""
    bench = drained(make())
    registry = bench.registries[0]
    assert (bench.loop.drain.outcome, registry.listed) == (Outcome.DRAINED, False)
    bench.finder.running = NEW
    bench.until(Phase.GONE)
    bench.loop.start_traffic("new version", "pipeline")
    bench.until(Phase.SERVING)
    assert registry.did == ["withdraw", "restore {'weight': 5}"]
    assert bench.loop.drain.outcome is Outcome.DRAINED


def test_stop_traffic_twice_is_one_drain(make: Make) -> None:
    """Asked again while a drain is under way, nothing new begins."""
    bench = make()
    bench.stop(StopRequest(reason="first"))
    first = bench.loop.drain
    bench.stop(StopRequest(reason="second"))
    assert bench.loop.drain == first


def test_registries_are_asked_beside_the_last_reading(make: Make) -> None:
    """Both decide, and neither waits for the other: they begin at the same moment."""
    bench = make()
    reads, looks = list[float](), list[float]()
    bench.page.while_reading = lambda: reads.append(bench.clock.time)
    bench.registries[0].while_looking = lambda: looks.append(bench.clock.time)
    drained(bench)
    assert looks[-1] == reads[-1]


def test_the_end_of_old_routes_is_one_that_was_said_after_the_withdrawal(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else had taken it out, and it had no old routes before withdraw() had made any."""
    bench = make()
    registry, view = bench.registries[0], bench.loop.known.registries[0]
    bench.go_on(0.5)
    with monkeypatch.context() as patched:

        def fails() -> None:
            raise RegistryError("memory", "withdraw", "connection refused")

        patched.setattr(registry, "withdraw", fails)
        registry.listed = False
        bench.stop()
        bench.go_on(0.05)
        assert view.clear is not None
        assert view.acknowledged is None
    bench.until(Phase.SETTLING)
    assert view.acknowledged is not None
    assert view.clear is None or view.clear > view.acknowledged


def test_work_in_hand_holds_it_up_until_the_deadline(make: Make) -> None:
    """A busy app is never drained; the deadline ends its drain, and says so."""
    bench = make(Policy(quiet=0.5, deadline=5.0, min_others=0))
    bench.page.in_flight = 1
    bench.stop()
    took = bench.until(Phase.EXPIRED)
    assert 4.9 < took < 5.2
    assert bench.loop.drain.outcome is Outcome.EXPIRED
    assert bench.written[-1].detail["blocking"] == ["1 requests in flight (page)"]


def test_a_probe_that_does_not_answer_is_not_idle(make: Make) -> None:
    """Unknown is not zero: a probe that is down holds the drain up."""
    bench = make(Policy(quiet=0.5, deadline=5.0, min_others=0))
    bench.page.down = True
    bench.stop()
    bench.until(Phase.EXPIRED)


def test_several_probes_are_read_side_by_side(make: Make) -> None:
    """None waits for another's answer; status adds up by kind and says which probe sees what."""
    queue = Page("queue")
    bench = make(more=[queue])
    bench.page.in_flight, queue.in_flight = 2, 3
    bench.stop()
    bench.until(Phase.DRAINING)
    bench.go_on(0.5)
    under_way: list[int] = []
    bench.page.while_reading = lambda: under_way.append(len(bench.calls.waiting))
    bench.go_on(0.5)
    assert max(under_way) > 0
    status = bench.loop.status()
    assert status.in_flight == {"requests": 5}
    blocking = ("2 requests in flight (page)", "3 requests in flight (queue)")
    assert status.blocking == blocking
    bench.page.in_flight = 0
    bench.go_on(3.0)
    assert (bench.phase, bench.loop.status().blocking) == (Phase.DRAINING, blocking[1:])
    queue.in_flight = 0
    bench.until(Phase.DRAINED)


def test_late_news_are_asked_for_seldom_and_in_time(make: Make) -> None:
    """A probe whose news may be 10 s old costs that, and is not asked for them all the time."""
    bench = make(Policy(quiet=1.0, deadline=60.0, min_others=0))
    bench.page.late = 10.0
    bench.stop()
    bench.until(Phase.DRAINING)
    reads = bench.page.reads
    assert bench.until(Phase.DRAINED) == pytest.approx(11.0, abs=0.05)
    assert 15 < bench.page.reads - reads < 30


def test_a_reading_begun_before_the_phase_does_not_count(make: Make) -> None:
    """With no quiet time, one idle reading is enough; but not one from before routes ended."""
    bench = make(Policy(quiet=0.0, settle=1.0, min_others=0))
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.SETTLING)

    def settling_ends() -> None:
        bench.page.while_reading = lambda: None
        bench.clock.time += 1.0
        bench.loop.tick()

    bench.page.while_reading = settling_ends
    bench.until(Phase.DRAINING)
    bench.loop._calls.collect()
    assert bench.loop.known.probes[0].reading is not None
    assert bench.loop.known.probes[0].window.since is None


def test_a_straggler_holds_up_the_drain(make: Make) -> None:
    """An old route that may still send work blocks; the drain goes on as soon as it has gone."""
    bench = make()
    bench.registries[0].old_routes = [Straggler("worker 7")]
    bench.stop()
    bench.go_on(10.0)
    assert (bench.phase, bench.loop.status().blocking) == (Phase.DRAINING, ("memory: worker 7",))
    bench.registries[0].old_routes.pop(0)
    assert bench.until(Phase.DRAINED) < bench.policy.quiet


@pytest.mark.parametrize("after", [0.0, 0.12])
def test_what_an_old_route_brought_at_its_end_is_seen(make: Make, after: float) -> None:
    """However long it was quiet: it takes a moment until the app counts what was sent to it."""
    bench = make()
    registry = bench.registries[0]
    registry.old_routes = [Straggler("worker 7")]
    bench.stop()
    bench.go_on(10.0)

    def ends() -> None:
        registry.old_routes, registry.while_looking = [], lambda: None
        arrives = bench.clock.time + after

        def counted() -> None:
            bench.page.in_flight = int(bench.clock.time >= arrives)

        bench.page.while_reading = counted
        counted()

    registry.while_looking = ends
    bench.go_on(5.0)
    assert bench.loop.status().blocking == ("1 requests in flight (page)",)
    bench.page.in_flight, bench.page.while_reading = 0, lambda: None
    assert bench.until(Phase.DRAINED) >= bench.policy.quiet


def test_an_app_is_read_less_often_while_a_straggler_is_waited_for(make: Make) -> None:
    """A client may hold an old worker for hours."""
    bench = make(Policy(quiet=1.0, deadline=60.0, min_others=0))
    bench.registries[0].old_routes = [Straggler("worker 7")]
    bench.stop()
    bench.until(Phase.DRAINING)
    before = bench.page.reads
    bench.go_on(10.0)
    assert bench.page.reads - before <= 10.0 / READ_BEHIND + 2


@pytest.mark.parametrize(
    ("started", "busy", "least", "most"), [(None, 0, 30, 50), (7, 0, 8, 14), (7, 1, 30, 50)]
)
def test_an_app_that_answers_slowly_and_counts_is_spared_while_idle(
    make: Make, started: int | None, busy: int, least: int, most: int
) -> None:
    """Its counter shows what comes and goes between two readings; without one, all are needed."""
    bench = make(Policy(quiet=10.0, deadline=60.0, min_others=0))
    bench.page.started = started
    bench.stop()
    bench.until(Phase.DRAINING)

    def slowly() -> None:
        bench.clock.time += 0.1

    bench.page.while_reading, bench.page.in_flight = slowly, busy
    before = bench.page.reads
    bench.go_on(5.0)
    assert least <= bench.page.reads - before <= most
    bench.page.in_flight = 0
    bench.until(Phase.DRAINED)


def test_what_hangs_on_the_agent_is_kept_while_the_app_is_ready(make: Make) -> None:
    """From restore on, in the next life too, and never during a drain or while it is not ready."""
    check, registry = Check(), ListRegistry()
    registry.keeps = check.ready = True
    bench = drained(make(registries=[registry], ready=[check]))
    bench.loop.start_traffic("again", "pipeline")
    bench.until(Phase.SERVING)
    bench.go_on(35.0)
    kept = "keep {'weight': 5}"
    assert registry.did[registry.did.index("withdraw") :][:2] == [
        "withdraw",
        "restore {'weight': 5}",
    ]
    assert 3 <= registry.did.count(kept) <= 5
    check.ready = False
    bench.go_on(1.0)
    registry.did.clear()
    bench.go_on(35.0)
    assert registry.did == []
    assert "it answered 503" in bench.loop.status().notes[0]
    check.ready = True
    bench.new_life()
    bench.go_on(1.0)
    assert (registry.did, bench.loop.status().notes) == ([kept], ())
    bench.stop()
    bench.go_on(35.0)
    assert kept not in registry.did[1:]


def test_what_cannot_be_kept_is_tried_on_and_told_of(make: Make) -> None:
    """Status shows the error until the registry has taken it."""
    check, registry = Check(), ListRegistry()
    registry.keeps = check.ready = True
    bench = make(registries=[registry], ready=[check])
    bench.go_on(2.0)
    registry.down = True
    bench.go_on(20.0)
    assert "cannot keep" in str(bench.loop.status().registries[0].error)
    registry.down = False
    registry.did.clear()
    bench.go_on(6.0)
    assert registry.did == ["keep {'weight': 5}"]
    assert bench.loop.status().registries[0].error is None


def test_trouble_is_logged_when_it_begins_and_when_it_ends(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """One line each, however often it is tried in between."""
    caplog.set_level("INFO", "deregister_agent.engine.calls")
    bench = make()
    bench.go_on(0.5)
    bench.registries[0].down = bench.page.down = True
    bench.stop()
    bench.go_on(20.0)
    lines = [record.getMessage() for record in caplog.records]
    assert sorted(lines) == [
        "will try again: memory: cannot list: connection refused",
        "will try again: memory: cannot look for other registrations: connection refused",
    ]
    bench.registries[0].down = False
    bench.until(Phase.DRAINING)
    bench.go_on(5.0)
    bench.page.down = False
    bench.until(Phase.DRAINED)
    assert sorted(record.getMessage() for record in caplog.records)[:3] == [
        "no more: memory: cannot list: connection refused",
        "no more: memory: cannot look for other registrations: connection refused",
        "no more: page: cannot read: connection refused",
    ]


def test_a_registry_that_says_done_and_did_nothing_is_asked_again(make: Make) -> None:
    """200 is not proof: while its word contradicts its acknowledgement, withdraw is repeated."""
    bench = make()
    bench.registries[0].lies = 2
    bench.stop()
    assert bench.until(Phase.SETTLING) < 2.0
    assert bench.registries[0].did == ["withdraw"] * 3


def test_an_instance_registered_anew_while_withdrawing_is_withdrawn_again(make: Make) -> None:
    """A registration between the acknowledgement and the read-back does not last to the end."""
    registry = ListRegistry()
    bench = make(registries=[registry])

    def registers_itself() -> None:
        if registry.did == ["withdraw"]:
            registry.did.append("registered")
            registry.listed = True

    registry.while_looking = registers_itself
    bench.stop()
    assert bench.until(Phase.SETTLING) < 1.0
    assert registry.did == ["withdraw", "registered", "withdraw"]


def test_a_restore_that_did_nothing_is_asked_again(make: Make) -> None:
    """The agent keeps trying until the registry lists the instance."""
    bench = drained(make())
    bench.registries[0].lies = 2
    bench.loop.start_traffic("", "")
    assert bench.until(Phase.SERVING) < 2.0


def test_a_word_overtaken_by_the_acknowledgement_is_asked_for_at_once(make: Make) -> None:
    """A look that began before the withdraw ended tells nothing, and the next one does not wait."""
    bench = make()
    registry = bench.registries[0]
    bench.go_on(0.5)
    bench.stop()

    def is_overtaken() -> None:
        registry.while_looking = lambda: None
        bench.clock.time += 0.1
        bench.calls.run()  # the withdraw, for one, is acknowledged now
        bench.clock.time += 0.1

    bench.loop.tick()
    act, look = bench.calls.waiting[:2]
    bench.calls.waiting[:2] = [look, act]
    registry.while_looking = is_overtaken
    bench.calls.run()
    assert bench.until(Phase.SETTLING) < 0.1


def test_waiting_for_readiness_costs_nothing(make: Make) -> None:
    """Until the app is ready the registries are left alone and the loop rests in between."""
    check = Check()
    bench = drained(make(ready=[check]))
    bench.loop.start_traffic("", "")
    assert bench.go_on(5.0) < 1000  # it is called 5000 times if it never rests
    assert bench.registries[0].did == ["withdraw"]
    check.ready = True
    bench.until(Phase.SERVING)


def test_listed_again_after_drained_is_taken_back(make: Make) -> None:
    """The same process registers itself: the announcement is taken back and the drain goes on."""
    bench = drained(make())
    bench.registries[0].listed = True
    bench.until(Phase.WITHDRAWING, within=2.0)
    assert bench.written[-1].announcements == (Announcement.TAKEN_BACK,)
    assert bench.written[-1].overtaken >= {Announcement.DRAINED}
    bench.until(Phase.DRAINED)


def test_the_next_version_is_left_alone(make: Make) -> None:
    """After the kill a new process registers itself: that is the next version, and it serves."""
    bench = drained(make())
    bench.finder.running = NEW
    bench.registries[0].listed = True
    bench.until(Phase.SERVING)
    assert bench.registries[0].did == ["withdraw"]


@pytest.mark.parametrize("phase", [Phase.WITHDRAWING, Phase.DRAINING])
@pytest.mark.parametrize("sees", [True, False])
def test_who_came_while_no_agent_was_there_is_left_alone(
    make: Make, phase: Phase, sees: bool
) -> None:
    """A "drained" that was taken back may have been acted on: first it is seen who is there."""
    bench = drained(make())
    registry = bench.registries[0]
    registry.listed = True
    bench.until(Phase.WITHDRAWING, within=2.0)
    bench.until(phase)
    did = len(registry.did)
    bench.finder.running, bench.finder.sees, registry.listed = NEW, sees, True
    bench.new_life()
    bench.go_on(3.0)
    bench.finder.sees = True
    bench.until(Phase.SERVING)
    assert registry.did[did:] == []


def test_a_taken_back_drain_goes_on_after_a_restart(make: Make) -> None:
    """Its process is still there, and is withdrawn as soon as that is seen."""
    bench = drained(make())
    bench.registries[0].listed = True
    bench.until(Phase.WITHDRAWING, within=2.0)
    bench.new_life()
    bench.registries[0].listed = True
    bench.until(Phase.DRAINED)
    assert not bench.registries[0].listed


def test_a_crash_of_the_app_while_draining_changes_nothing(make: Make) -> None:
    """Its supervisor starts it again: the new process is drained in its place."""
    bench = make()
    bench.page.in_flight = 1
    bench.stop()
    bench.until(Phase.DRAINING)
    bench.finder.running = NEW
    bench.go_on(2.0)
    assert (bench.phase, bench.loop.drain.process) == (Phase.DRAINING, NEW)
    assert "app-restarted" in [decision.kind for decision in bench.written]


def test_an_app_that_exits_by_itself_is_drained(make: Make) -> None:
    """Withdrawn, and nobody there: nothing can be in hand, and the outcome says why."""
    bench = make()
    bench.page.in_flight = 1
    bench.stop()
    bench.until(Phase.DRAINING)
    bench.finder.running, bench.page.down = None, True
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.outcome is Outcome.APP_EXITED


def test_a_look_begun_before_the_phase_does_not_count(make: Make) -> None:
    """That nobody is there must have been seen in this phase."""
    bench = make(Policy(quiet=0.0, settle=1.0, min_others=0))
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.SETTLING)
    bench.finder.running, bench.page.down = None, True

    def settling_ends() -> None:
        bench.finder.while_looking = lambda: None
        bench.clock.time += 1.0
        bench.loop.tick()

    bench.finder.while_looking = settling_ends
    bench.until(Phase.DRAINING)
    bench.loop._calls.collect()
    assert bench.loop.known.process.exited
    assert bench.loop.known.process.window.since is None
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.outcome is Outcome.APP_EXITED


def expired(make: Make, on_deadline: OnDeadline) -> Bench:
    """Take it to expired, with work in hand."""
    bench = make(Policy(quiet=0.5, deadline=2.0, on_deadline=on_deadline, min_others=0))
    bench.go_on(0.5)
    bench.page.in_flight = 1
    bench.stop()
    bench.until(Phase.EXPIRED)
    return bench


def test_an_expired_drain_holds_its_process_out(make: Make) -> None:
    """Hold means hold: the old process that registers itself again is withdrawn again, soon."""
    bench = expired(make, OnDeadline.HOLD)
    bench.go_on(20.0)
    bench.registries[0].listed = True
    bench.go_on(1.0)
    assert (bench.phase, bench.registries[0].listed) == (Phase.EXPIRED, False)


def test_an_expired_drain_leaves_the_next_version_alone(make: Make) -> None:
    """Killed by the platform and replaced: nothing is withdrawn any more."""
    bench = expired(make, OnDeadline.KILL)
    assert bench.written[-1].announcements == (Announcement.EXPIRED, Announcement.FORCED)
    bench.go_on(5.0)
    before = list(bench.registries[0].did)
    bench.finder.running, bench.registries[0].listed = NEW, True
    bench.go_on(5.0)
    assert (bench.phase, bench.registries[0].did) == (Phase.SERVING, before)


def test_an_expired_drain_leaves_alone_whom_it_cannot_see(make: Make) -> None:
    """The platform may have acted unseen: whoever is listed then may be the next version."""
    bench = expired(make, OnDeadline.KILL)
    bench.go_on(5.0)
    bench.finder.sees = False
    bench.registries[0].listed = True
    bench.go_on(5.0)
    assert (bench.phase, bench.registries[0].listed) == (Phase.EXPIRED, True)
    bench.finder.sees = True
    bench.go_on(2.0)
    assert (bench.phase, bench.registries[0].listed) == (Phase.EXPIRED, False)


def test_an_expired_drain_is_restored_where_the_policy_says_so(make: Make) -> None:
    """The instance is put back, and the outcome stays expired."""
    bench = expired(make, OnDeadline.RESTORE)
    bench.until(Phase.SERVING)
    assert (bench.registries[0].listed, bench.loop.drain.outcome) == (True, Outcome.EXPIRED)


def test_a_new_process_is_restored_when_it_is_ready(make: Make) -> None:
    """With restore = when-ready nobody has to ask for it."""
    check = Check()
    policy = Policy(quiet=0.5, restore=RestoreWhen.WHEN_READY, min_others=0)
    bench = drained(make(policy, ready=[check]))
    bench.finder.running = NEW
    bench.go_on(3.0)
    assert bench.phase is Phase.GONE
    check.ready = True
    bench.until(Phase.SERVING)


def test_too_late_a_restore_is_announced_once_and_tried_on(make: Make) -> None:
    """Past the restore deadline the platform is told, and the agent keeps trying."""
    bench = drained(make(Policy(quiet=0.5, restore_deadline=3.0, min_others=0)))
    bench.registries[0].down = True
    bench.loop.start_traffic("", "")
    bench.go_on(10.0)
    kinds = [kind for decision in bench.written for kind in decision.announcements]
    assert kinds.count(Announcement.NOT_RESTORED) == 1
    bench.registries[0].down = False
    bench.until(Phase.SERVING)


def test_the_guard_refuses_at_once(make: Make) -> None:
    """Too few others: stop-traffic is refused, and force overrides it."""
    bench = make(Policy(quiet=0.5, min_others=1))
    bench.registries[0].count = 0
    with pytest.raises(Refused, match="use force"):
        bench.stop()
    bench.stop(StopRequest(force=True))
    bench.until(Phase.DRAINED)


def test_the_guard_refuses_later_too(make: Make) -> None:
    """A registry that could not count at first refuses later: what was taken out is put back."""
    first, second = ListRegistry("first"), ListRegistry("second")
    bench = make(Policy(quiet=0.5, min_others=1), registries=[first, second])
    first.count = second.count = 2
    second.down = True
    bench.stop()
    bench.go_on(1.0)
    assert (bench.phase, first.listed) == (Phase.WITHDRAWING, False)
    second.down, second.count = False, 0
    bench.until(Phase.SERVING)
    assert (first.listed, second.listed) == (True, True)
    assert bench.loop.drain.outcome is Outcome.REFUSED


def test_a_hung_registry_delays_no_other(make: Make) -> None:
    """Each registry is asked on its own: one that does not answer does not hold up the next."""
    hung, other = ListRegistry("hung"), ListRegistry("other")
    bench = make(registries=[hung, other])
    bench.go_on(0.5)
    bench.stop()
    bench.loop.tick()
    del bench.calls.waiting[0]  # its call never comes back
    bench.go_on(2.0)
    assert (bench.phase, other.listed) == (Phase.WITHDRAWING, False)


@pytest.mark.parametrize(
    "phase",
    [Phase.WITHDRAWING, Phase.SETTLING, Phase.DRAINING, Phase.DRAINED, Phase.RESTORING],
)
def test_a_new_life_goes_on_where_the_old_one_died(make: Make, phase: Phase) -> None:
    """Whatever the phase, a restarted agent comes to the same end."""
    bench = make(Policy(quiet=0.5, settle=0.5, min_others=0))
    bench.go_on(0.5)
    bench.stop()
    if phase is Phase.RESTORING:
        bench.until(Phase.DRAINED)
        bench.loop.start_traffic("", "")
    bench.until(phase)
    drain = bench.loop.drain.id
    bench.new_life()
    bench.until(Phase.SERVING if phase is Phase.RESTORING else Phase.DRAINED)
    assert bench.loop.drain.id == drain


def test_an_announced_drain_is_believed_after_a_restart_only_of_its_process(make: Make) -> None:
    """While the agent was down the process was killed and replaced: the new one is left alone."""
    bench = drained(make())
    bench.finder.running, bench.registries[0].listed = NEW, True
    bench.new_life()
    bench.until(Phase.SERVING)
    assert bench.registries[0].did == ["withdraw"]


def test_settling_begins_anew_after_a_restart(make: Make) -> None:
    """A crash makes a drain longer, never shorter."""
    bench = make(Policy(quiet=0.0, settle=3.0, min_others=0))
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.SETTLING)
    bench.clock.time += 2.9
    bench.new_life()
    assert bench.until(Phase.DRAINING) > 2.9


def test_what_cannot_be_written_down_is_not_done(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a full disk stop-traffic is refused, and the phase stays until there is room."""
    bench = make()
    bench.go_on(0.5)

    def full(*_: object) -> int:
        raise JournalError("disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(bench.journal, "write", full)
        with pytest.raises(JournalError):
            bench.stop()
        assert bench.phase is Phase.SERVING
    bench.stop()
    with monkeypatch.context() as disk:
        disk.setattr(bench.journal, "write", full)
        bench.go_on(3.0)
        assert (bench.phase, str(bench.loop.known.error)) == (Phase.WITHDRAWING, "disk is full")
    bench.until(Phase.DRAINED)
    assert bench.loop.known.error is None


def test_a_full_disk_is_no_reason_to_ask_without_rest(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the drained process has exited cannot be written down: nothing is forgotten yet."""
    bench = drained(make())
    bench.finder.running = None

    def full(*_: object) -> int:
        raise JournalError("disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(bench.journal, "write", full)
        ticks = bench.go_on(20.0)
        assert bench.phase is Phase.DRAINED
        assert bench.loop.known.registries[0].seen
    assert ticks < 200
    bench.until(Phase.GONE)
    assert not bench.loop.known.registries[0].seen


def test_who_joins_before_the_word_is_written_belongs_to_the_app(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full when it is drained: from the writing on, who begins is a successor."""
    bench = make()
    bench.go_on(0.5)
    bench.stop()
    bench.until(Phase.DRAINING)

    def full(*_: object) -> int:
        raise JournalError("disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(bench.journal, "write", full)
        bench.go_on(5.0)
        app = bench.loop.known.process.app
        assert (bench.phase, app and app.closed) == (Phase.DRAINING, 0.0)
    written = bench.clock.time
    bench.until(Phase.DRAINED)
    app = bench.loop.known.process.app
    assert app is not None
    assert app.closed >= written
    assert bench.loop.drain.process == app


def test_no_snapshot_no_withdraw(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """What restoring needs is on disk before anything is withdrawn."""
    bench = make()

    def full(*_: object) -> None:
        raise JournalError("disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(bench.journal, "keep_snapshot", full)
        bench.stop()
        bench.go_on(3.0)
        assert bench.registries[0].did == []
    bench.until(Phase.DRAINED)


def test_an_instance_at_rest_is_looked_at_seldom(make: Make) -> None:
    """Serving costs next to nothing."""
    bench = make()
    bench.go_on(1.0)
    assert bench.go_on(60.0) < 12


def test_the_process_is_known_before_stop(make: Make) -> None:
    """A drain names the process that it is about."""
    bench = make()
    bench.go_on(0.5)
    bench.stop()
    assert bench.loop.drain.process == OLD


def test_drained_is_not_stood_by_after_a_restart_until_it_is_seen(make: Make) -> None:
    """While no agent was there the instance may have been registered: the registries are asked."""
    bench = drained(make())
    assert bench.loop.stands_by(Announcement.DRAINED)
    bench.registries[0].down = True
    bench.new_life()
    bench.go_on(5.0)
    assert bench.phase is Phase.DRAINED
    assert not bench.loop.stands_by(Announcement.DRAINED)
    assert bench.loop.stands_by(Announcement.SERVING)
    bench.registries[0].down = False
    bench.go_on(2.0)
    assert bench.loop.stands_by(Announcement.DRAINED)


def test_a_withdraw_that_is_overtaken_on_its_way_is_not_made(make: Make) -> None:
    """While the snapshot was taken somebody asked for traffic: nothing is withdrawn any more."""
    bench = make()
    bench.go_on(0.5)
    registry = bench.registries[0]
    take = registry.snapshot

    def and_meanwhile() -> object:
        bench.loop.start_traffic("", "")
        return take()

    registry.snapshot = and_meanwhile  # type: ignore[method-assign, assignment]
    bench.stop()
    bench.until(Phase.SERVING)
    assert "withdraw" not in registry.did
