"""While the journal cannot be written nothing is decided; what is decided already goes on."""

import logging

import pytest

from deregister_agent.errors import JournalError
from deregister_agent.model import Phase
from tests.unit.loop_bench import NEW, Bench, Check, ListRegistry, Make


@pytest.fixture
def bench(make: Make, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Give an instance in service on a lease of the agent's, whose journal takes nothing."""
    registry, check = ListRegistry("etcd"), Check()
    registry.keeps, check.ready = True, True
    bench = make(registries=[registry], ready=[check])
    bench.go_on(0.5)

    def full(*_: object, **__: object) -> None:
        raise JournalError("cannot write the journal: disk is full")

    monkeypatch.setattr(bench.journal, "keep_registration", full)
    monkeypatch.setattr(bench.journal, "forget_registrations", full)
    bench.finder.running = NEW  # which has to be written down
    return bench


def test_leases_are_prolonged(bench: Bench) -> None:
    """Or a full disk would take the instance out of service."""
    bench.go_on(31.0)
    assert bench.loop.known.error is not None
    before = len(bench.registries[0].did)
    bench.go_on(31.0)
    assert bench.registries[0].did[before:].count("keep {'weight': 5}") >= 3


def test_readiness_is_asked_for(bench: Bench) -> None:
    """A lease is not prolonged for an app that has long not been ready."""
    bench.go_on(31.0)
    bench.ready[0].ready = False
    bench.go_on(5.0)
    before = len(bench.registries[0].did)
    bench.go_on(60.0)
    assert bench.registries[0].did[before:] == []


def test_it_is_said_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """However often it is tried, and again when it fails anew."""
    with caplog.at_level(logging.ERROR):
        bench.go_on(90.0)
    (said,) = [one.message for one in caplog.records]
    assert said.endswith("disk is full; nothing is decided until it can be written")


def test_it_goes_on_when_it_can_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to do anything for that."""
    bench.go_on(31.0)
    monkeypatch.undo()
    bench.go_on(31.0)
    assert (bench.loop.known.error, bench.phase) == (None, Phase.SERVING)
    bench.stop()
    bench.until(Phase.DRAINED)
