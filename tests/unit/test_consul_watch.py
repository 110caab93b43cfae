"""A watch of Consul is woken by all of a service, and returns for one instance."""

import time
from collections.abc import Sequence
from dataclasses import replace

import pytest

from deregister_agent.registries.consul import watch
from deregister_agent.registries.consul.operations import CatalogEntry, ConsulOperation
from deregister_agent.registries.consul.watch import OwnEntries

WHO = OwnEntries("orders-1", "10.0.0.7", 8080)
THIS = CatalogEntry("orders-1", "a", "10.0.0.7", 8080, {}, (5, 5))
OTHER = CatalogEntry("orders-2", "b", "10.0.0.8", 8080, {}, (6, 6))
TWIN = CatalogEntry("stray", "b", "10.0.0.7", 8080, {}, (9, 9))


class Catalog(ConsulOperation):
    """What a catalog shows, one state for each index, from 10 on; it waits at the last one."""

    def __init__(self, *states: Sequence[CatalogEntry], first: int = 10) -> None:
        self.states, self.first, self.asked = states, first, list[str]()

    def entries(
        self, index: str = "", wait: float = 0.0, only: str = ""
    ) -> tuple[list[CatalogEntry], str]:
        del only
        self.asked.append(index)
        last = self.first + len(self.states) - 1
        now = min(int(index or self.first - 1) + 1, last)
        if index == str(last):
            time.sleep(max(0.0, wait))
        return list(self.states[now - self.first]), str(now)


class Standing(ConsulOperation):
    """Shows the same at once, whatever it is asked to wait for."""

    def __init__(self, entries: Sequence[CatalogEntry], index: str) -> None:
        self.shown, self.index, self.asked = entries, index, list[str]()

    def entries(
        self, index: str = "", wait: float = 0.0, only: str = ""
    ) -> tuple[list[CatalogEntry], str]:
        del wait, only
        self.asked.append(index)
        return list(self.shown), self.index


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pause for a moment only."""
    monkeypatch.setattr(watch, "PAUSE", 0.001)
    monkeypatch.setattr(watch, "SOON", 0.01)


def cursor(*entries: CatalogEntry) -> str:
    return WHO.watch(Catalog(entries), None, 30)


def test_others_do_not_end_it() -> None:
    """While others come and go it goes on, and its cursor is where it has come to."""
    catalog = Catalog([THIS], [THIS, OTHER], [THIS], [THIS, OTHER])
    assert WHO.watch(catalog, cursor(THIS), 1.0).startswith("13 ")
    assert catalog.asked == ["10", "11", "12", "13"]


@pytest.mark.parametrize(
    "after",
    [
        [OTHER],
        [replace(THIS, address="10.0.0.9"), OTHER],
        [replace(THIS, critical={"c": ""}), OTHER],
        [replace(THIS, indexes=(11, 11)), OTHER],
        [replace(THIS, node="c"), OTHER],
        [THIS, TWIN],
        [THIS, replace(TWIN, address="::ffff:10.0.0.7")],
    ],
)
def test_whatever_is_about_the_instance_ends_it(after: list[CatalogEntry]) -> None:
    """Gone, moved, critical, registered anew, on another node, or another one at its address."""
    catalog = Catalog([THIS], after, [THIS])
    assert WHO.watch(catalog, cursor(THIS), 30).startswith("11 ")


@pytest.mark.parametrize("entry", [THIS, TWIN])
def test_coming_ends_it(entry: CatalogEntry) -> None:
    """What is not there, and then is."""
    assert WHO.watch(Catalog([OTHER], [], [entry]), cursor(OTHER), 30).startswith("12 ")


def test_what_may_have_come_and_gone_is_told_soon() -> None:
    """Where nothing was and is, there may have been something: that too ends it, a bit later."""
    catalog = Catalog([], [OTHER])
    assert WHO.watch(catalog, cursor(), 10_000).startswith("11 ")


def test_many_watches_ask_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many under way, each asks once more when its time is over, and not for each change."""
    states = [[THIS], *([[THIS, OTHER], [THIS]] * 5)]
    monkeypatch.setattr(watch._watches, "count", 10_000)
    crowded = Catalog(*states)
    WHO.watch(crowded, cursor(THIS), 1.0)
    monkeypatch.setattr(watch._watches, "count", 0)
    alone = Catalog(*states)
    WHO.watch(alone, cursor(THIS), 1.0)
    assert len(crowded.asked) <= 2 < len(alone.asked)
    assert watch._watches.count == 0


def test_an_index_that_goes_backwards_ends_it() -> None:
    """After Consul was set back, or has lost its data, equal marks say nothing."""
    catalog = Standing([THIS], "3")
    assert WHO.watch(catalog, cursor(THIS), 30).startswith("3 ")
    assert catalog.asked == ["10"]


def test_an_answer_without_a_change_ends_it() -> None:
    """Consul has waited for as long as it does: whoever watches asks again."""
    catalog = Standing([THIS], "10")
    assert WHO.watch(catalog, cursor(THIS), 30) == cursor(THIS)
    assert catalog.asked == ["10"]


def test_the_order_of_entries_says_nothing() -> None:
    """Consul gives them in any."""
    assert WHO.mark([THIS, TWIN]) == WHO.mark([TWIN, OTHER, THIS])


def test_a_cursor_without_a_mark_ends_it() -> None:
    """One of another version of the agent says an index only."""
    for states in ([], [THIS]), ([THIS], [THIS]):
        assert WHO.watch(Catalog(*states), "10", 30).startswith("11 ")


@pytest.mark.parametrize("name", ['a"b', "a b", "a\\", "a`b", "ü", "a) or (Service.Port == 1"])
def test_a_name_that_needs_quoting_is_not_filtered_by(name: str) -> None:
    """Then Consul gives out all, and they are told apart here."""
    assert replace(WHO, id=name).filter == ""


def test_others_at_the_same_port_are_not_about_it() -> None:
    """What Consul leaves in is judged once more."""
    assert WHO.among([OTHER, THIS, TWIN]) == [THIS, TWIN]
    elsewhere = replace(THIS, address="10.0.0.9", port=1)
    assert WHO.among([elsewhere]) == [elsewhere]
    spelled = OwnEntries("orders-1", "fd00:0::07", 8080)
    assert spelled.is_here(replace(TWIN, address="fd00::7"))
    assert WHO.filter == 'Service.ID == "orders-1" or Service.Port == 8080'
