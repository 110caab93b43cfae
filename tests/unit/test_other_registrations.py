"""What else in a registry sends the instance work is found before anything is withdrawn."""

from dataclasses import replace

import pytest

from deregister_agent.config.backends import knowing_others
from deregister_agent.engine.actions import _take_out
from deregister_agent.errors import NeverSeen, OtherRegistrations
from deregister_agent.model import OnDeadline, Outcome, Phase, Policy, StopRequest
from deregister_agent.registries.consul.options import Options as ConsulOptions
from tests.unit.loop_bench import NEW, WEB, Bench, ListRegistry, Make

METRICS = "ID 'orders-metrics' (write not_ours = [\"orders-metrics\"])"


def two(make: Make, **more: object) -> tuple[Bench, ListRegistry, ListRegistry]:
    """Return an instance that both registries list, and consul under another name too."""
    consul, nginx = ListRegistry("consul"), ListRegistry("nginx")
    consul.elsewhere = [METRICS]
    bench = make(registries=[consul, nginx], **more)
    bench.go_on(0.5)
    return bench, consul, nginx


def test_it_is_refused_before_anything_is_withdrawn(make: Make) -> None:
    """The sentence names it, and to force it is no answer."""
    bench, consul, nginx = two(make)
    with pytest.raises(OtherRegistrations, match=r"consul would go on .*orders-metrics"):
        bench.stop(StopRequest(force=True))
    bench.go_on(5.0)
    assert (bench.phase, consul.did, nginx.did) == (Phase.SERVING, [], [])


def test_that_it_need_not_be_there_is_no_excuse(make: Make) -> None:
    """What is there under another name is there."""
    bench, _, _ = two(make, may_be_absent=frozenset({"consul"}))
    with pytest.raises(OtherRegistrations):
        bench.stop()


def test_a_name_that_is_wrong_comes_first(make: Make) -> None:
    """Where nothing is seen under the configured name, that is what has to be mended."""
    bench, _, nginx = two(make)
    nginx.listed, nginx.alike = False, ["server 10.0.0.7:8081"]
    bench.finder.running = NEW
    with pytest.raises(NeverSeen, match=r"nginx does not show it"):
        bench.stop()


def test_one_may_vouch_for_the_registry(make: Make) -> None:
    """Then it is not asked: a person has said that nothing comes from there."""
    bench, consul, _ = two(make)
    consul.down = True
    bench.stop(StopRequest(vouch=("consul",)))
    bench.until(Phase.DRAINED)
    assert bench.loop.drain.outcome is Outcome.DRAINED


def test_whoever_answers_late_is_asked_before_it_withdraws(make: Make) -> None:
    """The drain goes on; nothing is withdrawn from it before it is known."""
    bench, consul, nginx = two(make)
    consul.elsewhere, consul.tells = [], False
    bench.stop()
    bench.go_on(2.0)
    assert (bench.phase, consul.did, nginx.did) == (Phase.WITHDRAWING, [], ["withdraw"])
    assert any("other registrations" in one for one in bench.loop.status().blocking)
    consul.tells = True
    bench.until(Phase.DRAINED)


def test_what_comes_out_late_undoes_the_drain(make: Make) -> None:
    """No policy of the deadline is applied to that, and the other registry is put back."""
    bench, consul, nginx = two(make)
    consul.tells = False
    bench.stop(StopRequest(deadline=60, on_deadline=OnDeadline.KILL))
    bench.go_on(2.0)
    consul.tells = True
    bench.until(Phase.SERVING)
    assert bench.loop.drain.outcome is Outcome.REFUSED
    assert METRICS in bench.loop.drain.refusal
    assert ("withdraw" in consul.did, nginx.listed) == (False, True)


def test_each_drain_asks_anew(make: Make) -> None:
    """What one drain has found out says nothing of the next."""
    bench, consul, _ = two(make, policy=Policy(quiet=0.1, min_others=0))
    consul.elsewhere = []
    bench.stop()
    bench.until(Phase.DRAINED)
    bench.start()
    bench.until(Phase.SERVING)
    consul.elsewhere = [METRICS]
    with pytest.raises(OtherRegistrations):
        bench.stop()


def test_an_agent_that_died_in_between_asks_again(make: Make) -> None:
    """Before it withdraws; it remembers nothing of the answer."""
    bench, consul, _ = two(make)
    consul.elsewhere, consul.tells = [], False
    bench.stop()
    consul.elsewhere, consul.tells = [METRICS], True
    bench.new_life()
    bench.until(Phase.SERVING)
    assert bench.loop.drain.outcome is Outcome.REFUSED
    assert "withdraw" not in consul.did


def test_what_was_asked_for_an_earlier_drain_says_nothing_of_the_next(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that hangs over the end of its drain neither answers for the next nor withdraws."""
    bench, consul, _ = two(make)
    consul.elsewhere, consul.tells = [], False
    bench.stop()
    known = bench.loop.known
    view = known.registries[0]

    def late() -> list[str]:
        known.drain = replace(known.drain, id="the next one")
        return []

    monkeypatch.setattr(consul, "other_registrations", late)
    _take_out(known, view)
    assert (view.is_alone, consul.did) == (False, [])


CONSUL = {"kind": "consul", "service_id": "orders-1"}


@pytest.mark.parametrize(
    ("other", "left_out"),
    [
        ({"service_id": "metrics-1"}, ("known", "metrics-1")),
        ({"service_id": "metrics-1", "url": "http://10.0.0.9:8500"}, ("known",)),  # another agent
        ({"service_id": "metrics-1", "namespace": "b"}, ("known",)),
        ({}, ("known",)),  # the very same
    ],
)
def test_a_registry_knows_what_the_others_withdraw_where_it_looks(
    other: dict[str, str], left_out: tuple[str, ...]
) -> None:
    """What another one takes out elsewhere may still be here, left over."""
    options = ConsulOptions.model_validate(CONSUL | {"not_ours": ("known",)})
    second = ConsulOptions.model_validate(CONSUL | other)
    known = knowing_others(options, [options, second], WEB)
    assert isinstance(known, ConsulOptions)
    assert known.not_ours == left_out
