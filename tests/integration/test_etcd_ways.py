"""However an instance is written in etcd: it is recognised or refused by name, never absent."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from deregister_agent.errors import RegistryError, UnrecognisedError
from deregister_agent.model import Instance, Listing
from deregister_agent.registries.etcd.layouts import LAYOUTS
from deregister_agent.registries.etcd.registry import Etcd as EtcdRegistry
from deregister_agent.registries.etcd.registry import Options, build
from tests.integration.etcd_ways import PORT, WAYS, Way
from tests.servers.etcd import Etcd, shared

EACH = pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])


@pytest.fixture
def node() -> Iterator[Etcd]:
    """Give a member, and take away what a test has written."""
    made = shared("3.5")
    before = set(made.keyspace())
    yield made
    for key in set(made.keyspace()) - before:
        made.delete(key)


def registry(node: Etcd, way: Way, **options: Any) -> EtcdRegistry:
    given = {"kind": "etcd", "endpoints": [node.url]} | dict(way.options) | options
    chosen = {name: value for name, value in given.items() if value is not None}
    instance = Instance("orders-1", "orders", way.host, PORT)
    return build(Options.model_validate_json(json.dumps(chosen)), instance)


def write(node: Etcd, way: Way) -> None:
    """Write it as its framework does: all on one lease."""
    lease = node.grant(600)
    node.put(way.key, way.content, lease)
    for key, value in way.more.items():
        node.put(key, value, lease)


def own_key(node: Etcd, way: Way) -> str:
    """Write the instance once more, so that the options recognise it, and return its key."""
    layout = way.options.get("layout")
    prefix = LAYOUTS[layout].prefix_of("orders") if layout else f"{way.options['prefix']}/"
    key = f"{prefix}zz-own/url" if layout == "traefik" else f"{prefix}zz-own"
    host = f"[{way.host}]" if ":" in way.host else way.host
    address: object = f"http://{host}:{PORT}"
    if layout == "skydns":
        address = {"host": way.host, "port": PORT}
    node.put(key, address if isinstance(address, str) else json.dumps(address))
    return key


def out_and_in_again(node: Etcd, one: EtcdRegistry, key: str) -> None:
    """Withdraw and restore: it is really out, and then key, bytes and lease are as before."""
    before = node.keyspace()
    kept = one.snapshot()
    one.withdraw()
    assert one.look().listing is Listing.ABSENT
    assert key not in node.keyspace()
    one.restore(kept)
    assert one.look().listed
    assert node.keyspace() == before


@EACH
def test_alone(node: Etcd, way: Way) -> None:
    """As the only registration it is recognised, or refused with its key and the line to write."""
    write(node, way)
    one = registry(node, way)
    if way.outcome == "recognised":
        assert one.look().listed
        assert list(one.other_registrations()) == []
        out_and_in_again(node, one, way.key)
        return
    if way.outcome in {"refused", "shared"}:
        with pytest.raises(UnrecognisedError) as refused:
            one.look()
        told = [str(refused.value)]
    else:
        assert one.look().listing is Listing.ABSENT
        told = list(one.look_alikes())
    assert [each for each in told if way.key in each], told
    meant = registry(node, way, key=way.key, prefix=None, layout=None)
    assert meant.look().listed
    out_and_in_again(node, meant, way.key)


@EACH
def test_beside_our_own(node: Etcd, way: Way) -> None:
    """Beside the instance's own key it is named with the line to paste, and that line helps."""
    own = own_key(node, way)
    write(node, way)
    one = registry(node, way, key=own)
    assert one.look().listed
    told = list(one.other_registrations())
    line = f"not_ours = {json.dumps([way.key])}"
    assert [each for each in told if way.key in each and line in each], told
    named = [key for key in (way.key, *way.more) if any(key in each for each in told)]
    assert len(told) == len(named), told
    vouched = registry(node, way, key=own, not_ours=named)
    assert list(vouched.other_registrations()) == []
    out_and_in_again(node, vouched, own)


@EACH
def test_beside_our_own_that_is_found_by_its_address(node: Etcd, way: Way) -> None:
    """Where no key is named it is the same; two that are recognised are an error with both."""
    own = own_key(node, way)
    write(node, way)
    one = registry(node, way)
    if way.outcome == "recognised":
        with pytest.raises(RegistryError, match="2 keys are") as several:
            one.look()
        assert own in str(several.value)
        assert way.key in str(several.value)
    else:
        assert one.look().listed
        assert [each for each in one.other_registrations() if way.key in each]
    vouched = registry(node, way, not_ours=[way.key, *way.more])
    assert vouched.look().listed
    assert list(vouched.other_registrations()) == []
    out_and_in_again(node, vouched, own)
