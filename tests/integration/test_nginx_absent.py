"""What an Nginx shows of a server: listed, down, or absent; and whose a ``down`` is."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.errors import RegistryError, UnrecognisedError
from deregister_agent.model import Listing, Look
from deregister_agent.registries.nginx.advice import advice
from deregister_agent.registries.nginx.look_alikes import refuse_other_spellings
from deregister_agent.registries.nginx.processes import NginxError
from deregister_agent.registries.nginx.registry import NginxUpstream
from tests.integration.nginx_stage import World, make_world
from tests.servers.child import wait_until
from tests.servers.nginx import VERSIONS, settled


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(stack, VERSIONS[-1], tmp_path)


def record_of(world: World) -> Path:
    return world.nginx.folder / ".deregister-agent-nginx.json"


def rewritten(world: World, old: str, new: str) -> None:
    """Change the file as an operator does, and load it."""
    world.rewrite(old, new)
    written = world.nginx.conf.stat().st_mtime
    wait_until(lambda: time.time() > written + 0.05, "file times and start times differ")
    world.reload()
    settled(world.nginx)


def seen(registry: NginxUpstream) -> tuple[Listing, bool]:
    """Return what a look shows, and whether somebody else's mark is on it."""
    look = registry.look()
    assert registry.lists() is look.listed
    return look.listing, bool(look.out_by)


# --- absent, and what looks like it ---


def test_a_wrong_server_is_absent_and_the_right_one_is_named(world: World) -> None:
    """The name of another host: absent for every call, and the server at that port comes first."""
    registry = world.nginx.registry(world.b.port, server=f"127.0.0.9:{world.b.port}")
    before = world.nginx.conf.read_bytes()
    assert registry.look() == Look(Listing.ABSENT, [])
    assert (registry.lists(), registry.snapshot(), registry.others()) == (False, None, 2)
    alike = registry.look_alikes()
    right = f"127.0.0.1:{world.b.port}"
    assert alike[0] == f'upstream app has {right}: server = "{right}"'
    assert len(alike) == 2
    registry.withdraw()
    assert (registry.look().listing, world.nginx.conf.read_bytes()) == (Listing.ABSENT, before)
    assert world.nginx.registry(world.b.port, server=right).look().listed
    assert world.nginx.registry(world.b.port, server=right).look_alikes() == []


def test_restoring_what_is_absent_says_whose_turn_it_is(world: World) -> None:
    """With a snapshot always; without one unless it is by choice that it is not there."""
    registry, choice = world.nginx.registry(1), world.nginx.registry(1, absent="withdrawn")
    for one, snapshot in ((registry, None), (registry, {"down": [False]}), (choice, {"down": []})):
        with pytest.raises(RegistryError, match=r"has no server 127\.0\.0\.1:1 now: whoever"):
            one.restore(snapshot)
    choice.restore(None)


def test_a_wrong_upstream(world: World) -> None:
    """The right upstream is named, with its context where that is another one, and its state."""
    port = world.a.port
    rewritten(
        world,
        world.upstream(),
        f"{world.upstream()} upstream metrics {{ server 127.0.0.1:1; }}"
        f"upstream old {{ server 127.0.0.1:{port} down; }}",
    )
    registry = world.nginx.registry(port, "metrics")
    assert registry.look().listing is Listing.ABSENT
    assert registry.look_alikes() == [
        f'http upstream app has 127.0.0.1:{port}: upstream = "app"',
        f'http upstream old has 127.0.0.1:{port} (down): upstream = "old"',
        'upstream metrics has 127.0.0.1:1: server = "127.0.0.1:1"',
    ]


def test_never_more_than_five_sentences(world: World) -> None:
    """However many servers there are; those at the port of the instance come first."""
    many = "".join(f"server 10.0.0.{n}:8080; " for n in range(1, 9))
    rewritten(world, world.upstream(), f"upstream app {{ server 10.0.0.1:9; {many} }}")
    alike = world.nginx.registry(8080).look_alikes()
    assert len(alike) == 5
    assert all(":8080:" in one for one in alike)


def test_an_absence_that_no_worker_has_loaded_is_not_known(world: World) -> None:
    """A server taken out of the file alone still gets work: no absence, and no presence either."""
    registry = world.nginx.registry(world.a.port)
    world.rewrite(f"server 127.0.0.1:{world.a.port};", "")
    assert registry.lists()
    with pytest.raises(RegistryError, match="not proved that the running workers have loaded"):
        registry.look()
    registry.withdraw()
    assert (registry.look().listing, world.reaches_a()) == (Listing.ABSENT, False)


def test_check_config_says_that_it_is_absent(world: World) -> None:
    """It names what is there, and what becomes of stop-traffic."""
    for absent, refused in (("refuse", True), ("withdrawn", False)):
        registry = world.nginx.registry(1, absent=absent)
        said = "\n".join(advice(registry._site()))
        assert f'server = "127.0.0.1:{world.a.port}"' in said
        assert ("stop-traffic is refused" in said) is refused


def test_a_file_of_the_agents_own_that_is_not_there_yet(world: World) -> None:
    """It is absent; restored, it is there."""
    own = world.nginx.folder / "own" / "one.conf"
    own.parent.mkdir()
    upstream = f"upstream app {{ include {own.parent}/*.conf; server 127.0.0.1:{world.b.port}; }}"
    rewritten(world, world.upstream(), upstream)
    registry = world.nginx.registry(world.a.port, file=own)
    assert registry.look().listing is Listing.ABSENT
    registry.restore(None)
    assert seen(registry) == (Listing.LISTED, False)


# --- the same server in other words ---


@pytest.mark.parametrize(
    ("there", "server"),
    [
        ("localhost:{a}", "127.0.0.1:{a}"),
        ("LOCALHOST:{a} backup", "127.0.0.1:{a}"),
        ("127.1:{a}", "127.0.0.1:{a}"),  # for the resolver, which takes many forms
        ("127.0.0.1:{a}", "localhost:{a}"),
        ("localhost", "127.0.0.1:80"),  # without a port it is 80
        ("127.0.0.1:{a} down; server localhost:{a}", "127.0.0.1:{a}"),
        ("unix:{folder}/link/app.sock", "unix:{folder}/real/app.sock"),
        ("unix:{folder}/real/../real/app.sock", "unix:{folder}/real/app.sock"),
    ],
)
def test_up_in_other_words_is_an_error(world: World, there: str, server: str) -> None:
    """It is no absence: the error names it and the line to write, and with that it is found."""
    folder = world.nginx.folder
    (folder / "real").mkdir()
    (folder / "link").symlink_to(folder / "real")
    values = {"a": world.a.port, "folder": folder}
    there, server = there.format(**values), server.format(**values)
    keep = f"server 127.0.0.1:{world.b.port};"
    rewritten(world, world.upstream(), f"upstream app {{ server {there}; {keep} }}")
    registry = world.nginx.registry(1, server=server)
    written = there.rpartition("server ")[2].split(" ")[0]
    for call in (registry.look, registry.lists):
        with pytest.raises(UnrecognisedError, match="in other words, and is up") as caught:
            call()
        assert f"server = {json.dumps(written)}" in str(caught.value)
    assert world.nginx.registry(1, server=written).look().listing is Listing.LISTED
    rewritten(world, f"server {there};", f"server {there} down;")
    assert registry.look().listing in {Listing.ABSENT, Listing.OUT}


@pytest.mark.parametrize(
    ("there", "server"),
    [
        ("127.000.000.001:{a}", "127.0.0.1:{a}"),
        ("127.0.0.1", "127.0.0.1:80"),
        ("[::1]:{a}", "[0:0:0:0:0:0:0:1]:{a}"),
        ("[0::00:1]", "[::1]:80"),
        ("[::ffff:127.0.0.1]:{a}", "127.0.0.1:{a}"),
        ("LocalHost:{a}", "localhost:{a}"),
        ('"127.0.0.1:{a}" backup', "127.0.0.1:{a}"),
        ("127.0.0.1:{a} weight=2 max_fails=3 backup", "127.0.0.1:{a}"),
        ("unix:{folder}/app.sock", "unix:{folder}/app.sock"),
    ],
)
def test_other_spellings_that_are_recognised(world: World, there: str, server: str) -> None:
    """They are the server: listed, then down without a mark, then listed again."""
    values = {"a": world.a.port, "folder": world.nginx.folder}
    keep = f"server 127.0.0.1:{world.b.port};"
    there, server = there.format(**values), server.format(**values)
    rewritten(world, world.upstream(), f"upstream app {{ server {there}; {keep} }}")
    registry = world.nginx.registry(1, server=server)
    assert seen(registry) == (Listing.LISTED, False)
    before = registry.snapshot()
    registry.withdraw()
    assert seen(registry) == (Listing.OUT, False)
    registry.restore(before)
    assert seen(registry) == (Listing.LISTED, False)


def test_another_host_or_port_is_another_server(world: World) -> None:
    """Names that lead elsewhere, or nowhere from here, hold nothing up."""
    port = world.a.port
    there = f"server 127.0.0.9:{port}; server localhost:1; server unix:/run/app.sock;"
    rewritten(world, world.upstream(), f"upstream app {{ {there} server 127.0.0.1:{port}; }}")
    registry = world.nginx.registry(port)
    registry.withdraw()
    assert seen(registry) == (Listing.OUT, False)


def test_names_that_only_nginx_can_resolve(world: World) -> None:
    """They are not taken for the instance; one whose ports come from DNS might be it."""
    registry = world.nginx.registry(8080)
    world.rewrite(world.upstream(), "upstream app { server orders.invalid:8080 resolve; }")
    site = registry._site()
    refuse_other_spellings(site, site.read(), registry._until())
    world.rewrite("orders.invalid:8080", "orders.invalid service=http")
    with pytest.raises(NginxError, match=r"may mean 127\.0\.0\.1:8080, as its port comes from DNS"):
        refuse_other_spellings(site, site.read(), registry._until())


# --- whose "down" it is ---


def test_down_by_hand_before_the_drain(world: World) -> None:
    """It has a mark, before the drain and in it; restoring lifts nothing and ends at once."""
    registry = world.nginx.registry(world.a.port)
    rewritten(world, f":{world.a.port};", f":{world.a.port} down;")
    before, snapshot = world.nginx.conf.read_bytes(), registry.snapshot()
    look = registry.look()
    assert look.listing is Listing.OUT
    assert f'"down" in {world.nginx.conf}:' in look.out_by
    registry.withdraw()
    assert seen(registry) == (Listing.OUT, True)
    registry.restore(snapshot)
    assert seen(registry) == (Listing.OUT, True)
    with pytest.raises(RegistryError, match=r'down by another hand.*take "down" away'):
        registry.restore(None)
    assert world.nginx.conf.read_bytes() == before


def test_our_own_down_has_no_mark_and_is_lifted_without_a_snapshot(world: World) -> None:
    """The record proves that it is ours, in the next life as well, and after a restart of all."""
    world.nginx.registry(world.a.port).withdraw()
    registry = world.nginx.registry(world.a.port)
    assert seen(registry) == (Listing.OUT, False)
    record = json.loads(record_of(world).read_text())
    record_of(world).write_text(json.dumps(record | {"boot": "another"}))
    registry.withdraw()
    assert seen(registry) == (Listing.OUT, False)
    registry.restore(None)
    assert seen(registry) == (Listing.LISTED, False)
    rewritten(world, f":{world.a.port};", f":{world.a.port} down;")
    assert seen(registry) == (Listing.OUT, True)


def test_lifted_and_set_again_by_hand(world: World) -> None:
    """What somebody has lifted and loaded is not ours any more once the agent has reloaded."""
    registry, other = world.nginx.registry(world.a.port), world.nginx.registry(world.b.port)
    registry.withdraw()
    rewritten(world, f":{world.a.port} down;", f":{world.a.port};")
    other.withdraw()
    other.restore({"down": [False]})
    rewritten(world, f":{world.a.port};", f":{world.a.port} down;")
    assert seen(registry) == (Listing.OUT, True)


def test_one_of_two_directives_was_down(world: World) -> None:
    """Only the one that the agent has marked is lifted, with a snapshot and without."""
    port = world.a.port
    twice = f"server 127.0.0.1:{port}; server 127.0.0.1:{port} weight=2 down;"
    rewritten(world, f"server 127.0.0.1:{port};", twice)
    registry, before = world.nginx.registry(port), world.nginx.conf.read_bytes()
    for snapshot in (registry.snapshot(), None):
        registry.withdraw()
        assert seen(registry) == (Listing.OUT, False)
        registry.restore(snapshot)
        assert world.nginx.conf.read_bytes() == before


def test_a_lost_record(world: World) -> None:
    """Nothing is known of whose it is: a mark; only a snapshot can restore it."""
    registry = world.nginx.registry(world.a.port)
    snapshot = registry.snapshot()
    registry.withdraw()
    record_of(world).unlink()
    world.reload()
    settled(world.nginx)
    assert seen(registry) == (Listing.OUT, True)
    with pytest.raises(RegistryError, match="down by another hand, as far as"):
        registry.restore(None)
    registry.restore(snapshot)
    assert seen(registry) == (Listing.LISTED, False)


def test_the_record_of_a_former_version(world: World) -> None:
    """What it has proved down counts as ours for the mark, and as nobody's for lifting it."""
    registry = world.nginx.registry(world.a.port)
    registry.withdraw()
    record = json.loads(record_of(world).read_text())
    del record["ours"]
    record_of(world).write_text(json.dumps(record))
    assert seen(registry) == (Listing.OUT, False)
    with pytest.raises(RegistryError, match="down by another hand, as far as"):
        registry.restore(None)
    registry.restore({"down": [False]})
    assert seen(registry) == (Listing.LISTED, False)


def test_a_change_that_was_taken_back_is_not_ours(world: World) -> None:
    """Nginx refuses what is loaded with it: the file is as before, and so is the record."""
    script = world.nginx.folder / "test.sh"
    script.write_text(f'! grep -q " down" "{world.nginx.conf}"')
    registry = world.nginx.registry(world.a.port, test=("sh", str(script)))
    with pytest.raises(RegistryError, match="taken back"):
        registry.withdraw()
    registry = world.nginx.registry(world.a.port)
    rewritten(world, f":{world.a.port};", f":{world.a.port} down;")
    registry.withdraw()
    assert seen(registry) == (Listing.OUT, True)
