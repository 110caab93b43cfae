"""What else in etcd sends work to the instance: where it is sought, how it is told, the cost."""

import json
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import pytest

from deregister_agent.errors import ConfigError, RegistryError, UnrecognisedError
from deregister_agent.model import Instance, Listing
from deregister_agent.registries.etcd.registry import Etcd as EtcdRegistry
from deregister_agent.registries.etcd.registry import Options, build
from tests.servers.etcd import Etcd, etcd

AT = "10.0.0.7:8080"
KEY = "shop/1"  # of the instance itself


@pytest.fixture
def node(clean_node: Etcd) -> Etcd:
    return clean_node


def registry(node: Etcd, **options: Any) -> EtcdRegistry:
    given = {"kind": "etcd", "endpoints": [node.url], "prefix": "shop"} | options
    chosen = {name: value for name, value in given.items() if value is not None}
    instance = Instance("shop-1", "shop", "10.0.0.7", 8080)
    return build(Options.model_validate_json(json.dumps(chosen)), instance)


def put(node: Etcd, **keys: object) -> None:
    for key, value in keys.items():
        node.put(key, value if isinstance(value, str) else json.dumps(value))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shop/2", {"address": "10.0.0.7:9090"}),  # a twin on the host
        ("shop/2", {"address": "10.0.0.7:9090", "name": "shop-8080", "id": "v8080"}),
        ("shop/2", "tcp@10.0.0.7:9090"),
        ("shop/2", {"endpoints": ["http://10.0.0.7:80801"]}),
        ("shop/2", "10.0.0.70:8080"),
        ("shop/2", "10.0.0.17:8080 110.0.0.7:8080"),
        ("shop/2", "since 8080 days"),
        ("shop/2", {"address": "10.0.0.8:8080", "zone": "a"}),
        ("shopping/1", "tcp@10.0.0.7:9090"),  # beside the prefix the host alone is not enough
        ("shopping/1", {"host": "10.0.0.7"}),
        ("shopping/1", AT),  # a service of another name
        ("other/1", AT),  # neither below the prefix nor at the side of it
        ("shop/deregister-agent/slots", [AT]),  # what agents write for each other
        ("shop/deregister-agent/plans/7", {"hosts": [AT, "10.0.0.8:8080"]}),
    ],
)
def test_what_is_nothing_of_ours(node: Etcd, key: str, value: object) -> None:
    """Twins, other hosts, other services and the agents' own documents hinder no drain."""
    put(node, **{KEY: AT, key: value})
    for one in (registry(node), registry(node, key=KEY)):
        assert list(one.other_registrations()) == []
        kept = one.snapshot()
        one.withdraw()
        assert one.look().listing is Listing.ABSENT
        one.restore(kept)


def test_a_list_of_targets_and_a_line_of_a_log(node: Etcd) -> None:
    """They count until they are named, each alone or all that begin alike."""
    keys = ("shop/targets", "shop/log/1", "shop/log/2")
    put(node, **{KEY: AT, keys[0]: [AT, "10.0.0.8:8080"], keys[1]: f"GET {AT}", keys[2]: AT + "/"})
    assert len(registry(node).other_registrations()) == 3
    (left,) = registry(node, not_ours=["shop/log/"]).other_registrations()
    assert 'not_ours = ["shop/log/", "shop/targets"]' in left
    vouched = registry(node, not_ours=["shop/log/", "shop/targets"])
    assert list(vouched.other_registrations()) == []
    vouched.withdraw()
    assert vouched.look().listing is Listing.ABSENT
    with pytest.raises(UnrecognisedError, match="shop/log/1"):
        registry(node, not_ours=["shop/targets"]).look()


def test_a_list_that_is_read_as_ours_is_not_the_instance_once_it_is_named(node: Etcd) -> None:
    """What stands in not_ours is neither withdrawn nor one of two keys of the instance."""
    put(node, **{KEY: AT, "shop/scrape": AT})
    with pytest.raises(RegistryError, match=r"2 keys are .*not_ours"):
        registry(node).look()
    one = registry(node, not_ours=["shop/scrape"])
    one.withdraw()
    assert one.look().listing is Listing.ABSENT
    assert node.get("shop/scrape") == AT
    assert not [each for each in one.look_alikes() if "scrape" in each]


def test_what_the_look_refuses_is_not_told_twice(node: Etcd) -> None:
    """Where nothing is recognised, the look names all, and there is nothing else."""
    put(node, **{f"shop/{n}": f"tcp@{AT}" for n in range(7)})
    with pytest.raises(UnrecognisedError) as refused:
        registry(node).look()
    assert all(f'key = "shop/{n}"' in str(refused.value) for n in range(5))
    assert "and 2 more keys do" in str(refused.value)
    assert list(registry(node).other_registrations()) == []


def test_many(node: Etcd) -> None:
    """Five are named, and how many more there are."""
    put(node, **{KEY: AT}, **{f"shop/x{n:02}": f"tcp@{AT}" for n in range(30)})
    told = registry(node).other_registrations()
    assert len(told) == 5
    assert "and 25 more keys do" in told[-1]


@pytest.mark.parametrize(
    ("options", "keys", "named"),
    [
        ({}, {"shop": AT}, "shop"),  # at the very name (CoreDNS)
        ({}, {"shop-10.0.0.7:8080": "up"}, "shop-10.0.0.7:8080"),  # without a slash (Seata)
        ({}, {"shop.grpc/1": f"tcp@{AT}"}, "shop.grpc/1"),
        ({}, {"shop_two/1": {"ip": "10.0.0.7", "p": 8080}}, "shop_two/1"),
        ({"prefix": "/a/shop/"}, {"/a/shop:10.0.0.7/8080": ""}, "/a/shop:10.0.0.7/8080"),
        ({"key": KEY, "prefix": None}, {"shop/2": f"tcp@{AT}"}, "shop/2"),  # in its folder
        ({"key": KEY, "prefix": None}, {"shop/a/b": f"http://{AT}/x"}, "shop/a/b"),
    ],
)
def test_beside_a_prefix_and_a_key(
    node: Etcd, options: Mapping[str, Any], keys: Mapping[str, object], named: str
) -> None:
    """Consumers may read keys that begin alike, and those of the folder."""
    prefix = options.get("prefix") or "shop/"
    put(node, **{f"{prefix}1": AT}, **keys)
    (told,) = registry(node, **options).other_registrations()
    assert f"not_ours = {json.dumps([named])}" in told
    assert list(registry(node, **options, not_ours=[named]).other_registrations()) == []


def test_traefik_takes_one_letter_case_for_the_other(node: Etcd) -> None:
    """The other keys of the service are looked at; those that go with the instance are not told."""
    service = "traefik/http/services/shop"
    ours, other = f"{service}/loadbalancer/servers/0", f"{service}/loadBalancer/Servers/1"
    put(node, **{f"{ours}/url": f"http://{AT}", f"{ours}/name": AT, f"{other}/URL": f"http://{AT}"})
    one = registry(node, layout="traefik", prefix=None)
    (told,) = one.other_registrations()
    assert f"{other}/URL" in told
    one.withdraw()
    assert not [key for key in node.keyspace() if key.startswith(f"{ours}/")]


@pytest.mark.parametrize(
    ("document", "pointer", "name"),
    [
        ({"nodes": [AT, f"tcp@{AT}"]}, "/nodes", f"tcp@{AT}"),
        ({"nodes": {AT: 1, "10.0.0.8:8080": {"peer": AT}}}, "/nodes", "10.0.0.8:8080"),
        (
            {"nodes": [{"host": "10.0.0.7", "port": 8080}, {"ip": "10.0.0.8", "port": 1, "b": AT}]},
            "/nodes",
            "10.0.0.8:1",
        ),
        ({"nodes": [AT], "backup": ["10.0.0.9:1", AT]}, "/nodes", "/backup/"),
        ({"nodes": [AT], "backup": [{"host": "10.0.0.7", "port": 8080}]}, "/nodes", "/backup/"),
        ({"up": {"nodes": [AT]}, "desc": f"was {AT}"}, "/up/nodes", "/desc"),
        ({"nodes": [AT], "a/b": {"c": {"ip": "10.0.0.7", "p": 8080}}}, "/nodes", "/a~1b/c"),
        ({"nodes": [AT], "host": "10.0.0.7", "port": 8080}, "/nodes", "/"),
    ],
)
def test_in_a_document(node: Etcd, document: object, pointer: str, name: str) -> None:
    """Members and places that mention the instance are named, and the line holds after all."""
    node.put("shop/doc", json.dumps(document))
    options = {"mode": "document", "key": "shop/doc", "pointer": pointer, "prefix": None}
    one = registry(node, **options)
    assert one.look().listed
    (told,) = one.other_registrations()
    assert f"not_ours = {json.dumps([name])}" in told
    vouched = registry(node, **options, not_ours=[name])
    assert list(vouched.other_registrations()) == []
    before, kept = json.loads(node.get("shop/doc") or ""), vouched.snapshot()
    vouched.withdraw()
    assert vouched.look().listing is Listing.ABSENT
    with pytest.raises(UnrecognisedError) as refused:
        one.look()
    assert f"not_ours = {json.dumps([name])}" in str(refused.value)
    vouched.restore(kept)
    assert json.loads(node.get("shop/doc") or "") == before


def test_what_the_look_refuses_of_a_document_is_not_told_twice(node: Etcd) -> None:
    """Neither as another registration nor as an error."""
    put(node, **{"shop/doc": {"nodes": [f"tcp@{AT}"], "backup": [AT]}})
    one = registry(node, mode="document", key="shop/doc", pointer="/nodes", prefix=None)
    with pytest.raises(UnrecognisedError):
        one.look()
    assert list(one.other_registrations()) == []


def test_nothing_else_in_a_document(node: Etcd) -> None:
    """Other keys are no concern of a document, and twins in it none of the instance."""
    put(node, **{"shop/doc": {"nodes": {AT: 1, "10.0.0.7:9090": 1}, "id": 8080}, "shop/2": AT})
    one = registry(node, mode="document", key="shop/doc", pointer="/nodes", prefix=None)
    assert list(one.other_registrations()) == []


def test_the_others_are_counted_without_what_may_be_ours(node: Etcd) -> None:
    """Under another name the instance is no other one; what is named counts by its address."""
    put(node, **{KEY: AT, "shop/2": f"tcp@{AT}", "shop/3": f"{AT}|1", "shop/4": "10.0.0.8:8080"})
    assert registry(node).others() == 1
    put(node, **{"shop/5": {"address": "10.0.0.9:8080", "peer": AT}})
    assert registry(node).others() == 1
    assert registry(node, not_ours=["shop/5", "shop/2"]).others() == 2
    nodes = {"nodes": [AT, f"{AT}|9", "10.0.0.8:8080"]}
    put(node, **{"shop/doc": nodes})
    one = registry(node, mode="document", key="shop/doc", pointer="/nodes", prefix=None)
    assert one.others() == 1


@pytest.mark.parametrize(
    ("options", "own"),
    [
        ({"not_ours": ["shop/"]}, "shop/"),
        ({"not_ours": ["sh", "shop/1"], "key": "shop/1"}, "shop/1"),
        ({"not_ours": ["/"], "prefix": "/shop"}, "/shop/"),
        ({"prefix": "/services/deregister-agent"}, "/services/deregister-agent/"),
    ],
)
def test_the_instance_itself_is_ours(node: Etcd, options: Mapping[str, Any], own: str) -> None:
    """A line that would cover its own key, or all keys of its service, is refused."""
    with pytest.raises(ConfigError, match=f"not_ours: '{own}'"):
        registry(node, **options)


def many(node: Etcd, count: int) -> None:
    """Write so many other instances, a hundred in each transaction."""
    for first in range(0, count, 100):
        values = {
            f"shop/{n:05}": json.dumps(
                {"address": f"10.1.{n // 250}.{n % 250}:8080", "weight": 10, "tags": {"v": str(n)}}
            )
            for n in range(first, first + 100)
        }
        puts = [{"key": _base64(key), "value": _base64(values[key])} for key in values]
        node.call("/kv/txn", {"success": [{"request_put": put} for put in puts]})


def _base64(text: str) -> str:
    return b64encode(text.encode()).decode()


@pytest.mark.parametrize("large", [0, 20])
def test_five_thousand_keys(node: Etcd, large: int) -> None:
    """All are read, in pages, and one among them is found; also where a page would be too large."""
    many(node, 1200 if large else 5000)
    for n in range(large):
        node.put(f"shop/z{n}", "x" * 1_000_000)
    put(node, **{KEY: AT, "shop/zz": f"tcp@{AT}"})
    one = registry(node, key=KEY, timeout=60.0)
    (told,) = one.other_registrations()
    node.clear("shop/")
    assert "shop/zz" in told


def test_a_time_that_is_too_short(node: Etcd) -> None:
    """It is an error that says so, and never nothing."""
    put(node, **{KEY: AT})
    with pytest.raises(RegistryError, match="cannot look for other registrations"):
        registry(node, timeout=0.0001).other_registrations()
    with pytest.raises(RegistryError, match="cannot look for other registrations"):
        registry(node, endpoints=["http://127.0.0.1:1"]).other_registrations()


def test_what_the_user_may_not_read_is_left_out() -> None:
    """With rights to the prefix alone that is read, and what stands beside it is not."""
    with etcd("3.5") as node:
        node.add_user("agent", "secret", prefix="shop/")
        node.enable_auth()
        put(node, **{KEY: AT, "shop/2": f"tcp@{AT}", "shopping": AT})
        login = {"user": "agent", "password": {"env": "ETCD_PASSWORD"}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ETCD_PASSWORD", "secret")
            (told,) = registry(node, **login).other_registrations()
            assert "shop/2" in told
            assert list(registry(node, **login, key="a/b", prefix=None).other_registrations()) == []
