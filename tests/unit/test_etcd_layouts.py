"""Which key is the instance: addresses as they are written, and what is refused as a guess."""

import json
from typing import Any

import pytest

from deregister_agent.errors import AgentError, ConfigError
from deregister_agent.model import Instance
from deregister_agent.registries.etcd.key_finder import KeyFinder
from deregister_agent.registries.etcd.keys import KeyRange, KeyValue
from deregister_agent.registries.etcd.layouts import (
    LAYOUTS,
    KeyLayout,
    LookAlike,
    WrittenAddress,
    addresses,
)
from deregister_agent.registries.etcd.registry import Options, build

OURS = WrittenAddress("10.0.0.7", 8080)


def kv(key: str, value: object) -> KeyValue:
    text = value if isinstance(value, str) else json.dumps(value)
    return KeyValue(key.encode(), text.encode())


def finder(**layout: Any) -> KeyFinder:
    return KeyFinder(KeyRange.below("s/"), OURS, KeyLayout("s/", **({"match": "either"} | layout)))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.7:8080", "10.0.0.7", 8080),
        (" 10.0.0.7:8080\n", "10.0.0.7", 8080),
        ("http://10.0.0.7:8080/x?y=z", "10.0.0.7", 8080),
        ("grpc://10.0.0.7:9000?isSecure=false", "10.0.0.7", 9000),
        ("https://Orders.Example.", "orders.example", 443),
        ("[2001:DB8::0:1]:80", "2001:db8::1", 80),
        ("tcp://[::1]:80", "::1", 80),
        ("[::ffff:10.0.0.7]:80", "10.0.0.7", 80),
        ("[fd00:0:0:0:0:0:0:7]:80", "fd00::7", 80),
    ],
)
def test_an_address_is_read(text: str, host: str, port: int) -> None:
    """The forms in use mean the same, however the host is spelt."""
    assert WrittenAddress.parse(text) == WrittenAddress(host, port)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.7", "10.0.0.7:0", "h:70000", "a b:80", "::1:80", "http://", "udp://h", "x:y"],
)
def test_what_is_no_address(text: str) -> None:
    """What leaves host or port open is none."""
    assert WrittenAddress.parse(text) is None


@pytest.mark.parametrize(
    "value",
    [
        {"Op": 0, "Addr": "10.0.0.7:8080", "Metadata": None},
        {"network": "tcp", "address": "10.0.0.7:8080", "weight": 10},
        {"host": "10.0.0.7", "port": 8080},
        {"ip": "10.0.0.7", "port": "8080"},
        {"endpoints": ["http://10.0.0.7:8080", "grpc://10.0.0.7:9000"]},
        {"name": "s", "nodes": [{"id": "s-1", "address": "10.0.0.7:8080"}]},
        {"nodes": [{"id": "s-1", "address": "10.0.0.7", "port": 8080}]},
        {"nodes": {"10.0.0.7:8080": 1}},
        "10.0.0.7:8080",
    ],
)
def test_the_address_in_a_value(value: object) -> None:
    """Each form of value that is in use gives the address in it."""
    assert OURS in set(addresses(value))


@pytest.mark.parametrize(
    "value",
    [
        {"meta": {"peer": "10.0.0.7:8080"}},
        {"address": 5},
        {"host": "10.0.0.7", "port": 80},
        8080,
        None,
    ],
)
def test_an_address_elsewhere_in_a_value_is_not_its_address(value: object) -> None:
    """What an instance knows of others is not where it is."""
    assert OURS not in set(addresses(value))


def test_each_layout_has_the_prefix_that_its_framework_writes() -> None:
    """The service's name is put into the prefix as the framework does it."""
    prefixes = {name: layout.prefix_of("a/b.example") for name, layout in LAYOUTS.items()}
    assert prefixes == {
        "grpc": "a/b.example/",
        "go-zero": "a/b.example/",
        "kratos": "/microservices/a/b.example/",
        "go-micro": "/micro/registry/a-b.example/",
        "kitex": "kitex/registry-etcd/a/b.example/",
        "skydns": "/skydns/example/a/b/",
        "traefik": "traefik/http/services/a/b.example/loadbalancer/servers/",
    }


def test_a_prefix_has_no_siblings() -> None:
    """The range ends right behind the slash."""
    assert KeyRange.below("/svc/a/") == KeyRange(b"/svc/a/", b"/svc/a0")


def test_the_key_is_found_by_its_name_or_its_value() -> None:
    """Where the address may be is the layout's word."""
    by_name, by_value = kv("s/10.0.0.7:8080", "up"), kv("s/x", "10.0.0.7:8080")
    other = kv("s/10.0.0.8:8080", "10.0.0.8:8080")
    for one in (by_name, by_value):
        assert finder().find([other, one]) == [one]
    assert finder(match="key").find([by_name, other]) == [by_name]
    assert finder(match="value").find([by_value, other]) == [by_value]
    with pytest.raises(LookAlike, match='write match = "either"'):
        finder(match="value").find([other, kv("s/10.0.0.7:8080", "10.0.0.9:1")])


def test_a_kitex_key_that_says_one_thing_and_its_value_another() -> None:
    """Consumers go by the value: a key with another address in its name is not somebody else's."""
    kitex = KeyFinder(KeyRange.below("s/"), OURS, LAYOUTS["kitex"])
    with pytest.raises(AgentError, match=r"also has 10\.0\.0\.9:8888 in it"):
        kitex.find([kv("s/10.0.0.9:8888", {"network": "tcp", "address": "10.0.0.7:8080"})])


def test_a_record_without_a_port() -> None:
    """In DNS it stands for the whole host; elsewhere its port is somewhere we cannot read it."""
    record = kv("s/x", {"host": "10.0.0.7", "ttl": 60})
    assert finder(portless=True).find([record]) == [record]
    hidden = kv("s/x", {"WrittenAddress": "10.0.0.7", "Service": {"Port": 8080}})
    for one in (record, hidden):
        with pytest.raises(AgentError, match="in a form that is not known"):
            finder().find([one])


def test_another_instance_of_the_same_host_is_not_ours() -> None:
    """A port that is another's is known, also where the host stands once more without one."""
    other = kv("s/x", {"address": "10.0.0.7:8081", "ip": "10.0.0.7"})
    assert finder().find([other]) == []


@pytest.mark.parametrize("text", ["fd00:0:0:0:0:0:0:7:8080", "tcp FD00::7 8080", "fd00::7:8080"])
def test_an_ipv6_address_in_an_unknown_form(text: str) -> None:
    """However it is spelt, it is noticed that our host is mentioned."""
    ours = KeyFinder(
        KeyRange.below("s/"), WrittenAddress("fd00::7", 8080), KeyLayout("s/", match="either")
    )
    with pytest.raises(AgentError, match="in a form that is not known"):
        ours.find([kv("s/x", text)])


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (
            {"nodes": [{"address": "10.0.0.7:8080"}, {"address": "10.0.0.8:8080"}]},
            "also has 10.0.0.8",
        ),
        ({"nodes": ["10.0.0.7:8080", "10.0.0.7:8081"]}, "also has 10.0.0.7:8081"),
        (["10.0.0.7:8080", "10.0.0.8:8080"], "also has 10.0.0.8"),
        ({"target": "10.0.0.7", "p": 8080}, "in a form that is not known"),
        ("\x00\x0d10.0.0.7:8080\x10", "in a form that is not known"),
        ("dubbo%3A%2F%2F10.0.0.7%3A8080%2Fx", "in a form that is not known"),
        ("dubbo%3A%2F%2F10.0.0.7%3A20880%2Fx%3Fqos.port%3D8080", "in a form that is not known"),
        ({"address": "10.0.0.8:8080", "peer": "10.0.0.7:8080"}, "in a form that is not known"),
    ],
)
def test_what_would_be_a_guess_is_refused(value: object, why: str) -> None:
    """A key with others in it, or with our host in an unknown form, is neither ours nor not."""
    with pytest.raises(AgentError, match=why):
        finder(match="value").find([kv("s/1", value)])


def test_two_ports_of_one_instance() -> None:
    """Kratos writes an endpoint for each protocol: that is one instance still."""
    value = {"endpoints": ["http://10.0.0.7:8080", "grpc://10.0.0.7:9000"]}
    one = kv("s/1", value)
    assert finder(several=True).find([one]) == [one]
    with pytest.raises(AgentError, match=r"also has 10\.0\.0\.7:9000"):
        finder().find([one])


@pytest.mark.parametrize(
    "value", ["tcp@10.0.0.7:9090", "dubbo%3A%2F%2F10.0.0.7%3A20880%2Fx", "[10.0.0.7:1, 10.0.0.7:2]"]
)
def test_another_instance_of_the_same_host_in_an_unknown_form(value: str) -> None:
    """Where a port is right behind each mention of the host, and none is ours, it is another."""
    assert finder().find([kv("s/1", value)]) == []


@pytest.mark.parametrize("value", ["10.0.0.70", "110.0.0.7", "10.0.0.7.example", "not 10.0.0.8"])
def test_another_host_in_an_unknown_form_does_not_matter(value: str) -> None:
    """Only our own host makes an unknown form one of ours."""
    assert finder().find([kv("s/1", value)]) == []


def test_others_are_counted_by_address() -> None:
    """Two keys of one address are one instance; keys without an address are none."""
    entries = [
        kv("s/1", "10.0.0.7:8080"),
        kv("s/2", "10.0.0.8:8080"),
        kv("s/orphan", "10.0.0.8:8080"),
        kv("s/3", "10.0.0.7:8081"),
        kv("s/config", "{}"),
    ]
    assert finder(match="value").others(entries) == 2


def test_others_in_a_form_that_is_not_known_count_as_well() -> None:
    """The guard must not refuse because rpcx writes its addresses in its own way."""
    entries = [kv(f"s/tcp@10.0.0.{n}:8972", "weight=1") for n in (8, 9)]
    entries += [kv("s/x", "tcp@10.0.0.9:8973"), kv("s/config", '{"since": "12:30"}')]
    assert finder().others(entries) == 3
    assert finder(match="value").others(entries) == 1


@pytest.mark.parametrize(
    ("value", "ours"),
    [
        ({"address": "10.0.0.7:9090", "httpAddress": "10.0.0.7:8080"}, True),
        ({"address": "10.0.0.7:9090", "httpAddress": "10.0.0.7:8081"}, False),
        ({"address": "10.0.0.7:9090", "name": "orders-8080", "id": "v8080"}, False),
        ({"Addr": "10.0.0.7:9090", "Metadata": {"http_port": "8080"}}, True),
        ({"Addr": "10.0.0.7:9090", "Metadata": "http=10.0.0.7_8080"}, True),
        ({"endpoints": ["grpc://10.0.0.7:9090"], "admin": ":8080"}, True),
        ({"address": "10.0.0.8:9090", "peer": "10.0.0.7:8080"}, True),
    ],
)
def test_our_address_beside_another(value: object, *, ours: bool) -> None:
    """It may be an instance with two doors; a number in a name makes none of a twin's."""
    if ours:
        with pytest.raises(LookAlike, match='key = "s/1"'):
            finder().find([kv("s/1", value)])
    else:
        assert finder().find([kv("s/1", value)]) == []


@pytest.mark.parametrize(
    ("options", "mistake"),
    [
        ({}, "key: give key, or layout or prefix"),
        ({"prefix": "/"}, "prefix: it must not be all keys"),
        ({"prefix": "s", "endpoints": []}, "endpoints: give at least one"),
        ({"prefix": "s", "endpoints": ["etcd:2379"]}, "endpoints: 'etcd:2379' is no URL"),
        ({"prefix": "s", "address": "10.0.0.7"}, "address: '10.0.0.7' is not host:port"),
        ({"prefix": "s", "pointer": "/nodes"}, "pointer: only mode"),
        ({"prefix": "s", "user": "me"}, "user: give user and password"),
        ({"mode": "document", "prefix": "s"}, 'key: mode = "document" needs the key'),
        (
            {"mode": "document", "key": "k", "pointer": "nodes"},
            "pointer: it must begin with a slash",
        ),
        (
            {"mode": "document", "key": "k", "layout": "grpc"},
            'prefix: mode = "document" has no use',
        ),
        ({"key": "k", "match": "value"}, "match: only with prefix or layout"),
        ({"key": "k", "address": "10.0.0.7:80"}, "address: only with prefix or layout"),
        ({"key": "k", "certificate": "/c.pem"}, "certificate: give certificate and"),
    ],
)
def test_a_configuration_that_cannot_work(options: dict[str, Any], mistake: str) -> None:
    """What cannot work is refused before anything runs, by the name of the key."""
    given = Options.model_validate_json(json.dumps({"kind": "etcd"} | options))
    with pytest.raises(ConfigError, match=mistake):
        build(given, Instance("s-1", "s", "10.0.0.7", 8080))
