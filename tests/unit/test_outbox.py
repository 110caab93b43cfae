"""Announcements on their way to notifiers."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from deregister_agent.engine.knowledge import AgentContext
from deregister_agent.engine.outbox import Outbox
from deregister_agent.errors import JournalError, NotifyError
from deregister_agent.journal.journal import Decision, Journal
from deregister_agent.model import Announcement, Drain, Event, Phase
from deregister_agent.ports import Notifier
from tests.unit.loop_bench import WEB, Calls, HandClock

ALL = frozenset(Announcement)
DRAINED, TAKEN_BACK = (Announcement.DRAINED,), (Announcement.TAKEN_BACK,)


class Platform(Notifier):
    """A notifier that can be down, or take a message and fail to say so."""

    def __init__(self, name: str = "platform") -> None:
        self.name, self.announces = name, ALL
        self.heard: list[Event] = []
        self.down = self.cuts_off = False

    def announce(self, event: Event) -> None:
        if self.down:
            raise NotifyError(self.name, "announce it", "connection refused")
        self.heard.append(event)
        if self.cuts_off:
            raise NotifyError(self.name, "announce it", "the answer was cut off")

    @property
    def kinds(self) -> list[str]:
        return [event.kind for event in self.heard]


class Post:
    """An outbox with two notifiers, and the journal it reads."""

    def __init__(self, folder: Path) -> None:
        self.clock, self.calls = HandClock(), Calls()
        self.journal = Journal(folder / "journal.db", self.clock)
        self.one, self.two = Platform("one"), Platform("two")
        self.stands = True
        self.new_life()

    def new_life(self, only: str = "") -> None:
        """Begin anew with what the journal holds; with *only*, one notifier is left."""
        self.calls.waiting.clear()
        self.outbox = self.new_outbox()
        both = {"one": self.one, "two": self.two}
        notifiers = {name: each for name, each in both.items() if only in ("", name)}
        self.outbox.add(WEB.name, notifiers, lambda _: self.stands)

    def new_outbox(self) -> Outbox:
        """Return an outbox with nobody to tell yet."""
        chance = Random(1)
        context = AgentContext(self.journal, self.clock, self.calls.submit, chance, lambda *_: None)
        return Outbox(context, lambda: None)

    def decide(
        self, announcements: tuple[Announcement, ...], overtaken: frozenset[Announcement]
    ) -> None:
        """Write a decision down."""
        drain = Drain("d1", WEB.name, Phase.DRAINED, since=0.0, deadline=200.0)
        who = {"one": ALL, "two": ALL}
        decision = Decision(drain, WEB, "drained", {}, announcements, who, overtaken=overtaken)
        self.journal.write(decision)

    def go_on(self, seconds: float) -> None:
        """Let the outbox work for a time."""
        end = self.clock.time + seconds
        while self.clock.time < end:
            rest = self.outbox.tick()
            waiting = bool(self.calls.waiting)
            self.calls.run()
            self.clock.time += 0.001 if waiting else max(0.001, rest)


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    """Make an outbox on a new journal."""
    made = Post(tmp_path)
    yield made
    made.journal.close()


def test_every_notifier_is_told_once(post: Post) -> None:
    """What was taken is never sent again, and both notifiers get the same id."""
    post.decide(DRAINED, frozenset())
    post.go_on(60.0)
    assert (post.one.kinds, post.two.kinds) == (["drained"], ["drained"])
    assert post.one.heard[0].id == post.two.heard[0].id


def test_what_was_not_taken_comes_again_with_the_same_id(post: Post) -> None:
    """At least once: an answer that was cut off leads to the same event again."""
    post.one.cuts_off = True
    post.decide(DRAINED, frozenset())
    post.go_on(3.0)
    post.one.cuts_off = False
    post.go_on(60.0)
    assert len(post.one.heard) > 1
    assert len({event.id for event in post.one.heard}) == 1
    assert post.journal.pending_announcements() == []


def test_nobody_waits_for_a_notifier_that_is_configured_no_more(post: Post) -> None:
    """Its one is kept for the day it comes back; alerts and commands do not wait for it."""
    post.one.down = True
    post.decide(DRAINED, frozenset())
    post.go_on(3.0)
    assert [one.notifier for one in post.outbox.pending()] == ["one"]
    post.new_life(only="two")
    assert post.outbox.pending() == []
    assert [one.notifier for one in post.journal.pending_announcements()] == ["one"]
    post.one.down = False
    post.new_life()
    post.go_on(60.0)
    assert post.one.kinds == ["drained"]


def test_one_notifier_that_is_down_holds_up_no_other(post: Post) -> None:
    """The one to the other is delivered; the first one's waits with its error."""
    post.one.down = True
    post.decide(DRAINED, frozenset())
    post.go_on(3.0)
    assert post.two.kinds == ["drained"]
    [one] = post.journal.pending_announcements()
    assert (one.notifier, one.error) == (
        "one",
        "one: cannot announce it: connection refused",
    )
    assert one.attempts > 1


def test_announcements_keep_their_order(post: Post) -> None:
    """A later announcement waits behind an earlier one to the same notifier."""
    post.one.down = True
    post.decide((Announcement.EXPIRED,), frozenset())
    post.go_on(1.0)
    post.decide(TAKEN_BACK, frozenset())
    post.one.down = False
    post.go_on(60.0)
    assert post.one.kinds == ["expired", "taken-back"]


def test_what_was_overtaken_is_not_sent(post: Post) -> None:
    """A "drained" that could not be delivered in time is dropped when it no longer holds."""
    post.one.down = True
    post.decide(DRAINED, frozenset())
    post.go_on(2.0)
    post.decide(TAKEN_BACK, frozenset({Announcement.DRAINED}))
    post.one.down = False
    post.go_on(60.0)
    assert post.one.kinds == ["taken-back"]


def test_what_is_overtaken_on_its_way_is_neither_sent_nor_noted_as_sent(post: Post) -> None:
    """Between choosing a one and sending it a decision may be written: it is asked again."""
    post.decide(DRAINED, frozenset())
    post.outbox.tick()
    post.decide((), frozenset({Announcement.DRAINED}))
    post.go_on(60.0)
    assert (post.one.kinds, post.two.kinds) == ([], [])
    delivered = post.journal._file._db.execute("SELECT id FROM outbox WHERE delivered IS NOT NULL")
    assert delivered.fetchall() == []


def test_announcements_outlive_the_agent(post: Post) -> None:
    """What was decided before a crash is announced after it."""
    post.decide(DRAINED, frozenset())
    post.new_life()
    post.go_on(1.0)
    assert post.one.kinds == ["drained"]


def test_a_journal_that_fails_is_no_end(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the journal cannot be read nothing is sent; then it goes on."""
    post.decide(DRAINED, frozenset())

    def broken(*_: object) -> None:
        raise JournalError("cannot read the journal")

    with monkeypatch.context() as disk:
        disk.setattr(post.journal, "pending_announcements", broken)
        post.go_on(3.0)
        assert post.one.heard == []
    post.go_on(3.0)
    assert post.one.kinds == ["drained"]


def test_announcements_to_a_notifier_that_is_no_longer_configured_wait(post: Post) -> None:
    """They are no hindrance to others."""
    post.decide(DRAINED, frozenset())
    post.outbox = post.new_outbox()
    post.outbox.add(WEB.name, {"two": post.two}, lambda _: True)
    post.go_on(3.0)
    assert (post.one.kinds, post.two.kinds) == ([], ["drained"])


def test_what_the_instance_does_not_stand_by_yet_waits(post: Post) -> None:
    """After a restart "drained" waits until it has been seen to hold."""
    post.stands = False
    post.decide(DRAINED, frozenset())
    post.go_on(3.0)
    assert post.one.kinds == []
    post.stands = True
    post.go_on(1.0)
    assert post.one.kinds == ["drained"]


def test_what_cannot_be_noted_as_taken_comes_again_less_and_less_often(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk does not turn one announcement into a hail of them."""
    post.decide(DRAINED, frozenset())

    def full(*_: object) -> None:
        raise JournalError("disk is full")

    with monkeypatch.context() as disk:
        disk.setattr(post.journal, "delivered", full)
        post.go_on(60.0)
        assert 2 < len(post.one.heard) < 10
    post.go_on(60.0)
    assert post.journal.pending_announcements() == []
