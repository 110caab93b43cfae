"""Whatever etcd has of an instance that is not recognised: it is told, and what to write."""

import json
from typing import Any

import pytest

from deregister_agent.errors import RegistryError, UnrecognisedError
from deregister_agent.model import Instance, Listing
from deregister_agent.registries.etcd.registry import Etcd as EtcdRegistry
from deregister_agent.registries.etcd.registry import Options, build
from tests.servers.etcd import Etcd

SERVICE = "orders-like"
ROOTS = (SERVICE, f"/{SERVICE}", "/registry-seata", f"/skydns/example/{SERVICE}", "/zoo", "zoo")
GRPC = "10.0.0.7:9090"


@pytest.fixture
def node(clean_node: Etcd) -> Etcd:
    return clean_node


def registry(node: Etcd, host: str = "10.0.0.7", **options: Any) -> EtcdRegistry:
    given = {"kind": "etcd", "endpoints": [node.url], "prefix": SERVICE} | options
    chosen = {name: value for name, value in given.items() if value is not None}
    instance = Instance("orders-1", SERVICE, host, 8080)
    return build(Options.model_validate_json(json.dumps(chosen)), instance)


def told(one: EtcdRegistry) -> list[str]:
    """Return what is said of the instance, which must be neither listed nor out."""
    try:
        assert one.look().listing is Listing.ABSENT
    except UnrecognisedError as e:
        return [str(e)]
    return list(one.look_alikes())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tcp@10.0.0.7:8080", ""),  # rpcx
        ("x", "tcp@10.0.0.7:8080"),
        ("orders-10.0.0.7:8080", "{}"),
        ("10.0.0.7_8080", "up"),
        ("1", "addr=10.0.0.7:8080"),
        ("1", {"address": "10.0.0.7:8080/api"}),
        ("1", "10.0.0.6:8080,10.0.0.7:8080"),
        ("1", {"address": "10.0.0.6:8080,10.0.0.7:8080"}),
        ("1", {"address": GRPC, "httpAddress": "10.0.0.7:8080"}),
        # What nobody has told of: go-zero's and dubbo-go's URLs, goframe, Polaris, Tars ...
        ("dubbo%3A%2F%2F10.0.0.7%3A8080%2Fcom.x.Orders", "{}"),
        ("dubbo%253A%252F%252F10.0.0.7%253A8080", ""),
        ("orders@10.0.0.7:8080", "{}"),
        ("10-0-0-7-8080", "{}"),
        ("1", "tcp -h 10.0.0.7 -p 8080 -t 60000"),
        ("1", '"{\\"ip\\": \\"10.0.0.7\\", \\"port\\": 8080}"'),
        ("1", {"Endpoint": {"IP": "10.0.0.7", "Port": 8080}}),
        ("1", "host=10.0.0.7;port=8080;weight=1"),
        ("1", {"addr": "ipv4:10.0.0.7:8080"}),
        ("1", "\x0a\x0c10.0.0.7\x10\x90\x3f 8080"),  # protobuf
    ],
)
def test_a_form_that_is_not_known(node: Etcd, name: str, value: object) -> None:
    """It is no absence, and the very key is named as what to write."""
    key = f"{SERVICE}/{name}"
    node.put(f"{SERVICE}/2", "10.0.0.9:8080")
    node.put(key, value if isinstance(value, str) else json.dumps(value))
    (sentence,) = told(registry(node))
    assert f"key = {json.dumps(key)}" in sentence
    assert registry(node, prefix=None, key=key).look().listed


@pytest.mark.parametrize(
    ("key", "value", "options", "line"),
    [
        (f"/skydns/example/{SERVICE}", {"host": "10.0.0.7", "port": 8080}, {}, "key = "),  # CoreDNS
        ("/registry-seata-default-10.0.0.7:8080", "10.0.0.7:8080", {}, "key = "),  # Seata
        (
            f"traefik/http/services/{SERVICE}/loadBalancer/servers/0/url",
            "http://10.0.0.7:8080",
            {"layout": "traefik", "prefix": None},
            f'prefix = "traefik/http/services/{SERVICE}/loadBalancer/servers/"',
        ),
        (
            f"/microservices/{SERVICE}-v2/id",
            {"endpoints": ["http://10.0.0.7:8080"]},
            {"layout": "kratos", "prefix": None},
            f'prefix = "/microservices/{SERVICE}-v2/"',
        ),
        (f"{SERVICE}/10.0.0.7:8080", "up", {"match": "value"}, 'match = "either"'),
        (f"{SERVICE}/a", "localhost:8080", {}, 'address = "localhost:8080"'),
        (f"{SERVICE}/a", {"Addr": "web-1.internal:8080"}, {}, 'address = "web-1.internal:8080"'),
        (f"/{SERVICE}/a", "10.0.0.7:8080", {}, f'prefix = "/{SERVICE}/"'),
        ("zoo/b", "10.0.0.7:8080", {"prefix": None, "key": "zoo/a"}, 'key = "zoo/b"'),
        # Nobody has told of these: dubbo-go, go-micro in another case, APISIX as a key.
        (
            f"/dubbo/{SERVICE}/providers/dubbo%3A%2F%2F10.0.0.7%3A8080",
            "",
            {"prefix": f"/dubbo/{SERVICE}/provider"},
            "key = ",
        ),
        (
            f"/micro/registry/{SERVICE}.srv/{SERVICE}-1",
            {"nodes": [{"address": "10.0.0.7:8080"}]},
            {"layout": "go-micro", "prefix": None},
            f'prefix = "/micro/registry/{SERVICE}.srv/"',
        ),
        (
            "/zoo/upstreams/1",
            {"nodes": {"10.0.0.7:8080": 1}},
            {"prefix": "/zoo/routes"},
            "prefix =",
        ),
    ],
)
def test_another_place(
    node: Etcd, key: str, value: object, options: dict[str, Any], line: str
) -> None:
    """The key is named with the line that would mean it, also where it is far from the prefix."""
    prefix: dict[str, Any] = {"prefix": "/registry-seata-default"} if "seata" in key else {}
    prefix = {"prefix": f"/skydns/example/{SERVICE}/"} if "skydns" in key else prefix
    node.put(key, value if isinstance(value, str) else json.dumps(value))
    named = told(registry(node, **prefix | options))
    assert [each for each in named if key in each and line in each], named


def test_ipv6_in_any_spelling(node: Etcd) -> None:
    """Zeros that are left out, or not, make no difference."""
    node.put(f"{SERVICE}/1", "addr=[fd00:0:0:0:0:0:0:7]:8080")
    (sentence,) = told(registry(node, host="fd00::7"))
    assert f'key = "{SERVICE}/1"' in sentence


def test_what_is_there_is_named_where_nothing_has_the_address(node: Etcd) -> None:
    """Up to three keys, the nearest; and never many, however many there are."""
    for n in range(300):
        node.put(f"{SERVICE}/{n:03}", f"10.1.0.{n % 250}:8081")
    named = told(registry(node))
    assert len(named) == 3
    assert f"'{SERVICE}/000'" in named[0]
    for n in range(9):
        node.put(f"/{SERVICE}/{n}", "10.0.0.7:8080")
    assert len(told(registry(node))) == 5


def test_values_that_are_too_large(node: Etcd) -> None:
    """Where an answer would be too large, the names of the keys have to do."""
    for n in range(16):
        node.put(f"/zoo/{n}", "x" * 1_000_000)
    node.put("/zoo/tcp@10.0.0.7:8080", "x")
    named = told(registry(node, prefix="/zoo/routes"))
    assert 'key = "/zoo/tcp@10.0.0.7:8080"' in named[0]


def test_nothing_at_all(node: Etcd) -> None:
    """Nothing is said of nothing, and a cluster that does not answer is an error."""
    assert all("10.0.0.7" not in each for each in told(registry(node)))
    with pytest.raises(RegistryError, match="cannot look for what looks like"):
        registry(node, endpoints=["http://127.0.0.1:1"]).look_alikes()


@pytest.mark.parametrize(
    ("document", "pointer", "line"),
    [
        ({"nodes": [], "backup": [{"host": "10.0.0.7", "port": 8080}]}, "/nodes", "/backup"),
        ({"a": {"nodes": {"10.0.0.7:8080": 1}}, "nodes": {}}, "/nodes", "/a/nodes"),
        ({"nodes": [], "x/y": ["http://10.0.0.7:8080"]}, "/nodes", "/x~1y"),
        ({"nodes": ["10.0.0.7:8080", "10.0.0.8:8080"]}, "", "/nodes"),
        ({"nodes": {"10.0.0.7:8080": 1, "10.0.0.8:8080": 1}}, "", "/nodes"),
        (
            {"a": [{"nodes": ["10.0.0.8:1", {"ip": "10.0.0.7", "port": 8080}]}]},
            "/a/0",
            "/a/0/nodes",
        ),
    ],
)
def test_another_place_in_a_document(node: Etcd, document: object, pointer: str, line: str) -> None:
    """The pointer is told that leads to where the instance is, and that pointer works."""
    node.put("/zoo/1", json.dumps(document))
    options: dict[str, Any] = {"mode": "document", "key": "/zoo/1", "prefix": None}
    named = told(registry(node, pointer=pointer or None, **options))
    assert [each for each in named if f"pointer = {json.dumps(line)}" in each], named
    assert registry(node, pointer=line, **options).look().listed


def test_another_name_in_a_document(node: Etcd) -> None:
    """A member at a host name is told with the address to write; else some members are."""
    options: dict[str, Any] = {
        "mode": "document",
        "key": "/zoo/1",
        "prefix": None,
        "pointer": "/nodes",
    }
    node.put("/zoo/1", json.dumps({"nodes": {"web-1:8080": 1, "10.0.0.9:8080": 1}}))
    (sentence,) = told(registry(node, **options))
    assert 'address = "web-1:8080"' in sentence
    node.put("/zoo/1", json.dumps({"nodes": {"10.0.0.9:8080": 1}}))
    (sentence,) = told(registry(node, **options))
    assert 'address = "10.0.0.9:8080"' in sentence


def test_another_document(node: Etcd) -> None:
    """Where the document is missing, others that have the instance are named."""
    node.put("/zoo/2", json.dumps({"nodes": {"10.0.0.7:8080": 1}}))
    options: dict[str, Any] = {
        "mode": "document",
        "key": "/zoo/1",
        "prefix": None,
        "pointer": "/nodes",
    }
    (sentence,) = told(registry(node, **options))
    assert 'key = "/zoo/2"' in sentence
