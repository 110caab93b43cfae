"""Whatever else in Consul sends work to the instance is named; what does not is passed over."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.config.options import Secret
from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import ConfigError, RegistryError, UnrecognisedError
from deregister_agent.model import Instance
from deregister_agent.registries.consul.registry import Consul as Registry
from deregister_agent.registries.consul.registry import Options, build
from tests.servers.child import wait_until
from tests.servers.consul import Consul, shared
from tests.servers.orders import Orders
from tests.servers.talking import answering, talking

OURS = "198.51.100.7"
"""An address as hosts of a fleet have it; nobody's, by RFC 5737."""
NAMES = {
    "web-1.internal": OURS,
    "web-1": "127.0.1.1",
    "web-2.internal": "198.51.100.8",
    "pool.internal": OURS,
    "central.internal": "198.51.100.99",
}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the resolver know the names of a fleet besides its own."""
    real = socket.getaddrinfo

    def know(name: str, *more: Any, **how: Any) -> Any:
        return real(NAMES.get(name, name), *more, **how)

    monkeypatch.setattr(socket, "getaddrinfo", know)


class Fleet:
    """An instance on the node of an agent, and whatever else is registered there and elsewhere."""

    def __init__(self, agent: Consul) -> None:
        self.orders, self.server = Orders(agent), shared()
        self.agent, self.port, self.service = agent, self.orders.port, self.orders.service
        self.id = self.orders.id
        self._straight: list[tuple[str, str]] = []

    def registry(self, known_as: str = OURS, **options: Any) -> Registry:
        """Return the registry of the instance, which is known by an address."""
        told = {"kind": "consul", "url": self.agent.url} | options
        return build(Options(**told), Instance(self.id, self.service, known_as, self.port))

    def others(self, known_as: str = OURS, **options: Any) -> list[str]:
        return list(self.registry(known_as, **options).other_registrations())

    def put(self, definition: dict[str, Any], *, at: Consul | None = None) -> str:
        """Register something at an agent, with the names filled in, and return its ID."""
        text = json.dumps(definition).replace("SERVICE", self.service).replace("OURS", OURS)
        text = text.replace(':PORT"', f':{self.port}"')
        made = {"Name": self.service, "Port": self.port} | json.loads(text)
        made["ID"] = str(made.get("ID", made["Name"])).replace("PORT", str(self.port))
        (at or self.agent).ok("PUT", "/v1/agent/service/register", made)
        wait_until(
            lambda: any(e["Service"]["ID"] == made["ID"] for e in self.agent.entries(made["Name"])),
            f"the catalog has {made['ID']}",
        )
        return str(made["ID"])

    def register(self, **more: Any) -> None:
        """Register the instance itself."""
        self.put({"ID": self.id, "Address": "OURS"} | more)

    def straight(self, node: str, address: str, **service: Any) -> None:
        """Write a node, and a service on it, straight into the catalog."""
        made = {"ID": self.id, "Service": self.service, "Port": self.port} | service
        self._straight.append((node, str(made["ID"])))
        told = {"Node": node, "Address": address, "Service": made, "SkipNodeUpdate": False}
        self.server.ok("PUT", "/v1/catalog/register", told)

    def clear(self) -> None:
        """Take everything out again."""
        for one in (self.agent, self.server):
            for each in one.client.agent.services():
                one.deregister(each)
        for node, service in self._straight:
            told = {"Node": node} | ({"ServiceID": service} if node == self.agent.node else {})
            self.server.ok("PUT", "/v1/catalog/deregister", told)


@pytest.fixture
def fleet(agent: Consul) -> Iterator[Fleet]:
    made = Fleet(agent)
    yield made
    made.clear()


ALLOC = "_nomad-task-9c1f3a52-0f6a-2a7c-1d59-6f3f0b0f9a11-group-web-SERVICE-http"
LEADS: dict[str, dict[str, Any]] = {
    # Frameworks: an ID of their own, in the service or in one of their own.
    "spring": {"ID": "SERVICE-PORT", "Address": "web-1.internal"},
    "spring-random": {"ID": "SERVICE-5f2b1c77ad", "Address": "OURS"},
    "spring-management": {"ID": "SERVICE-PORT-management", "Name": "SERVICE-management"},
    "registrator": {"ID": "web-1:SERVICE:PORT", "Name": "SERVICE-PORT", "Address": "OURS"},
    "registrator-udp": {"ID": "web-1:SERVICE:PORT:udp", "Name": "web", "Address": ""},
    "nomad": {"ID": ALLOC, "Name": "SERVICE-http", "Address": "OURS"},
    "fabio": {"ID": "web", "Tags": ["urlprefix-/SERVICE strip=/SERVICE"], "Address": "OURS"},
    "steeltoe": {"ID": "SERVICE:app:PORT", "Name": "Shop", "Address": "web-1.internal."},
    "kratos": {"ID": "web-1", "Name": "SERVICE", "Address": "OURS"},
    "micro": {"ID": "go.micro.srv-5f2b", "Name": "go.micro.srv", "Address": "OURS"},
    "dubbo": {"ID": "dubbo-PORT", "Name": "providers:com.x.Orders::", "Address": "OURS"},
    # By hand.
    "metrics": {"ID": "SERVICE-metrics", "Name": "SERVICE-metrics", "Address": "OURS"},
    "canary": {"ID": "canary", "Name": "totally-else", "Address": "OURS"},
    "name-alone": {"Name": "SERVICE-by-hand", "Address": "OURS"},
    # Addresses in other spellings, or that mean the machine from its own agent.
    "mapped": {"ID": "web", "Name": "web", "Address": f"::ffff:{OURS}"},
    "node": {"ID": "web", "Name": "web"},
    "loopback": {"ID": "web", "Name": "web", "Address": "127.0.0.1"},
    "localhost": {"ID": "web", "Name": "web", "Address": "localhost"},
    "docker-host": {"ID": "web", "Name": "web", "Address": "host.docker.internal"},
    "case": {"ID": "web", "Name": "web", "Address": "Web-1.Internal."},
    "pool": {"ID": "web", "Name": "web", "Address": "pool.internal"},
    "debian": {"ID": "web", "Name": "web", "Address": "web-1"},
    "url": {"ID": "web", "Name": "web", "Address": "http://OURS"},
    "url-of-a-name": {"ID": "web", "Name": "web", "Address": "https://web-1.internal/api"},
    "with-its-port": {"ID": "web", "Name": "web", "Address": "OURS:PORT", "Port": 0},
    # Other places than the address.
    "wan": {
        "ID": "web",
        "Name": "web",
        "Address": "172.17.0.3",
        "Port": 80,
        "TaggedAddresses": {"wan": {"Address": "OURS", "Port": "PORT"}},
    },
    "lan": {
        "ID": "web",
        "Name": "web",
        "Address": "198.51.100.8",
        "TaggedAddresses": {"lan_ipv4": {"Address": "OURS", "Port": "PORT"}},
    },
    "proxy-by-id": {
        "ID": "SERVICE-envoy",
        "Name": "SERVICE-envoy",
        "Kind": "connect-proxy",
        "Port": 21999,
        "Proxy": {"DestinationServiceName": "SERVICE", "DestinationServiceID": "SERVICE-1"},
    },
    "proxy-by-port": {
        "ID": "envoy",
        "Name": "edge",
        "Kind": "connect-proxy",
        "Port": 21999,
        "Proxy": {"DestinationServiceName": "other", "LocalServicePort": "PORT"},
    },
}


def _filled(value: Any, port: int) -> Any:
    """Return a definition in which each port "PORT" is a number."""
    if isinstance(value, dict):
        return {
            key: port if key.endswith("Port") and each == "PORT" else _filled(each, port)
            for key, each in value.items()
        }
    return value


@pytest.mark.parametrize("way", LEADS)
def test_what_leads_to_it(fleet: Fleet, way: str) -> None:
    """It is named with the lines to write, beside the instance or not; and then it is left out."""
    fleet.register()
    assert fleet.others() == []
    other = fleet.put(_filled(LEADS[way], fleet.port))
    (sentence,) = fleet.others()
    assert repr(other) in sentence
    assert f'not_ours = ["{other}"]' in sentence
    assert fleet.others(not_ours=(other,)) == []
    assert fleet.registry().look().listed
    fleet.agent.deregister(fleet.id)
    (sentence,) = fleet.others()
    assert f'not_ours = ["{other}"]' in sentence
    assert fleet.others(not_ours=("x", other)) == []


NOT_OURS: dict[str, dict[str, Any]] = {
    "another-port": {"ID": "web", "Address": "OURS", "Port": 9},
    "another-host": {"ID": "web", "Address": "198.51.100.8"},
    "another-name": {"ID": "web", "Name": "web", "Address": "web-2.internal"},
    "a-container": {"ID": "web", "Name": "web", "Address": "172.17.0.2"},
    "link-local": {"ID": "web", "Name": "web", "Address": "fe80::1"},
    "virtual": {
        "ID": "web",
        "Name": "web",
        "Address": "198.51.100.8",
        "TaggedAddresses": {"virtual": {"Address": "OURS", "Port": "PORT"}},
    },
    "a-proxy-of-another": {
        "ID": "web-proxy",
        "Name": "web-proxy",
        "Kind": "connect-proxy",
        "Port": 21999,
        "Proxy": {"DestinationServiceName": "a", "LocalServicePort": 9},
    },
    "a-proxy-elsewhere": {
        "ID": "web-proxy",
        "Name": "web-proxy",
        "Kind": "connect-proxy",
        "Port": 21999,
        "Proxy": {
            "DestinationServiceName": "a",
            "LocalServicePort": "PORT",
            "LocalServiceAddress": "198.51.100.8",
        },
    },
}


@pytest.mark.parametrize("way", NOT_OURS)
def test_what_does_not(fleet: Fleet, way: str) -> None:
    """Another port, another host, another container of the machine."""
    fleet.register()
    fleet.put(_filled(NOT_OURS[way], fleet.port))
    assert fleet.others() == []


@pytest.mark.parametrize(
    ("own", "address"),
    [
        ("172.17.0.2", "172.17.0.2"),  # a container of each host
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("127.0.0.1", "[::1]"),
        (OURS, "127.0.0.1"),
        (OURS, "localhost"),
        (OURS, "host.docker.internal"),
        (OURS, ""),  # at the address of the other node
        (OURS, "web-2.internal"),
        (OURS, "nobody.invalid"),
    ],
)
def test_on_another_node(fleet: Fleet, own: str, address: str) -> None:
    """What means each host means the other one there; and so does what nobody knows."""
    fleet.register(Address=own)
    fleet.put({"ID": "web", "Address": address}, at=fleet.server)
    fleet.put({"ID": "web-2", "Name": "web", "Address": address}, at=fleet.server)
    assert fleet.others(own) == []


@pytest.mark.parametrize("address", ["OURS", "web-1.internal", "pool.internal"])
def test_in_its_service_on_another_node(fleet: Fleet, address: str) -> None:
    """The same app, registered with another agent: that one is where to ask."""
    fleet.register()
    fleet.put({"ID": "web", "Address": address}, at=fleet.server)
    (sentence,) = fleet.others()
    assert f"with the agent of node {fleet.server.node} as url" in sentence
    assert fleet.others(not_ours=("web",)) == []


@pytest.mark.parametrize(
    ("node", "more"),
    [
        (OURS, {}),
        ("web-1.internal", {"Service": "web"}),
        ("198.51.100.20", {"Address": OURS, "ID": "by-hand"}),
    ],
)
def test_straight_in_the_catalog(fleet: Fleet, node: str, more: dict[str, Any]) -> None:
    """A node that was only written down has no agent that could take anything out."""
    name = f"ext-{fleet.port}"
    fleet.register()
    fleet.straight(name, node, **more)
    (sentence,) = fleet.others()
    other = more.get("ID", fleet.id)
    assert f"node {name} has no agent" in sentence
    assert (
        f'PUT /v1/catalog/deregister and {{"Node": "{name}", "ServiceID": "{other}"}}' in sentence
    )
    assert ("not_ours" in sentence) == (other != fleet.id)
    assert "as url" not in sentence


def test_straight_in_the_catalog_is_told_by_the_look(fleet: Fleet) -> None:
    """With nothing registered properly, neither the look nor what it names sends to an agent."""
    fleet.straight(f"ext-{fleet.port}", OURS)
    with pytest.raises(UnrecognisedError, match="has no agent, so it was registered straight"):
        fleet.registry().look()
    fleet.straight(f"ext-{fleet.port}", "198.51.100.20")
    assert not fleet.registry().look().listed
    (sentence,) = fleet.registry().look_alikes()
    assert "PUT /v1/catalog/deregister" in sentence
    assert "as url" not in sentence


@pytest.mark.parametrize("mode", ["deregister", "maintenance"])
def test_straight_in_the_catalog_of_its_own_node(fleet: Fleet, mode: str) -> None:
    """The agent cannot take out what it never had, and that is what the error says."""
    registry = fleet.registry(mode=mode, timeout=0.5)
    said: list[str] = []
    for _ in range(50):
        fleet.straight(fleet.agent.node, "127.0.0.1", Address=OURS)
        try:
            registry.withdraw()
        except RegistryError as e:
            said.append(str(e))
            break
        # Else the agent has put it right in between, as it does now and then.
        assert not registry.look().listed
    assert "registered straight into the catalog" in said[0]


def test_a_name_that_is_not_known(fleet: Fleet) -> None:
    """With its own agent that is doubt enough; elsewhere it is told, and holds up nobody."""
    fleet.register()
    fleet.put({"ID": "web", "Name": "web", "Address": "nobody.invalid"})
    registry = fleet.registry()
    (sentence,) = registry.other_registrations()
    assert "what nobody.invalid stands for is not known here" in sentence
    assert registry.notes(None) == []
    fleet.agent.deregister("web")
    fleet.put({"ID": "web", "Address": "nobody.invalid"}, at=fleet.server)
    assert registry.other_registrations() == []
    (note,) = registry.notes(None)
    assert "at names that stand for no address here: nobody.invalid" in note


def test_an_agent_for_the_whole_fleet(fleet: Fleet) -> None:
    """Where all apps are with one agent, elsewhere, a name of theirs is no reason to refuse."""
    node = f"central-{fleet.port}"
    fleet.straight(node, "198.51.100.99", Address=OURS)
    fleet.straight(node, "198.51.100.99", ID="a", Service="a", Address="5f2b1c77ad.invalid")
    registry = fleet.registry(node=node)
    assert registry.other_registrations() == []
    assert "5f2b1c77ad.invalid" in registry.notes(None)[0]
    fleet.straight(node, "198.51.100.99", ID="b", Service="b", Address="web-1.internal")
    (sentence,) = registry.other_registrations()
    assert 'not_ours = ["b"]' in sentence


def test_a_resolver_that_hangs(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of the limit, and what is known without it is told."""
    fleet.register()
    fleet.put({"ID": "web", "Name": "web", "Address": "hangs.invalid"})
    fleet.put({"ID": "web-2", "Name": "web", "Address": OURS})
    over, real = threading.Event(), socket.getaddrinfo

    def hang(name: str, *more: Any, **how: Any) -> Any:
        if name == "hangs.invalid":
            over.wait(30)
        return real(name, *more, **how)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        assert len(fleet.others(timeout=2.0)) == 2
        assert not over.is_set()
    finally:
        over.set()


class TestOut:
    def _maintain(self, fleet: Fleet, id_: str) -> None:
        fleet.agent.client.agent.service.maintenance(id_, enable=True, reason="disk")

    def test_in_maintenance_by_somebody(self, fleet: Fleet) -> None:
        """It gets no work from consumers that obey, which is what mode maintenance relies on."""
        fleet.register()
        other = fleet.put({"ID": f"{fleet.id}-old", "Address": "OURS"})
        assert len(fleet.others(mode="maintenance")) == 1
        self._maintain(fleet, other)
        assert fleet.others(mode="maintenance") == []
        assert len(fleet.others()) == 1

    def test_critical_by_its_check(self, fleet: Fleet) -> None:
        """It may get work again at any moment: when its check passes."""
        fleet.register()
        check = {"CheckID": "alive", "Name": "alive", "TTL": "1h", "Status": "critical"}
        fleet.put({"ID": "old", "Address": "OURS", "Check": check})
        assert len(fleet.others(mode="maintenance")) == 1

    def test_on_another_node(self, fleet: Fleet) -> None:
        """Whose maintenance the catalog tells."""
        fleet.register()
        fleet.put({"ID": "web", "Address": "OURS"}, at=fleet.server)
        fleet.server.client.agent.service.maintenance("web", enable=True, reason="disk")
        fleet.server.wait_for_check(fleet.service, "_service_maintenance:web")
        assert fleet.others(mode="maintenance") == []
        assert len(fleet.others()) == 1


SIDECAR: dict[str, Any] = {"Connect": {"SidecarService": {}}}
PROXY = {"DestinationServiceName": "SERVICE", "DestinationServiceID": "SERVICE-1"}


class TestSidecars:
    def test_one_that_goes_with_the_service(self, fleet: Fleet) -> None:
        """Registered as a part of it, it is taken out with it."""
        fleet.register(**SIDECAR)
        for mode in ("deregister", "maintenance"):
            assert fleet.others(mode=mode) == []
        fleet.registry().withdraw()
        assert fleet.agent.client.agent.services() == {}

    def test_one_that_stays(self, fleet: Fleet) -> None:
        """Under the same ID, but registered by itself: its alias check passes, and it gets work."""
        fleet.register()
        alias = [{"Name": "Destination Alias", "AliasService": fleet.id}]
        made = {"ID": "SERVICE-1-sidecar-proxy", "Name": "SERVICE-sidecar-proxy"}
        more = {"Kind": "connect-proxy", "Port": 21999, "Proxy": PROXY, "Checks": alias}
        sidecar = fleet.put(made | more)
        assert fleet.others() == []
        with pytest.raises(RegistryError, match=f'not_ours = \\["{sidecar}"\\]'):
            fleet.registry().withdraw()
        target = f"/v1/health/connect/{fleet.service}?passing"
        wait_until(
            lambda: [e["Service"]["ID"] for e in fleet.server.ok("GET", target)] == [sidecar],
            "the mesh is told to send work to the proxy of what is not there",
            limit=90.0,
        )
        fleet.registry(not_ours=(sidecar,)).withdraw()

    def test_in_maintenance_an_alias_is_obeyed(self, fleet: Fleet) -> None:
        """A proxy that is critical when its service is goes out with it; one without does not."""
        fleet.register()
        alias = [{"Name": "Destination Alias", "AliasService": fleet.id}]
        more = {"Name": "envoy", "Kind": "connect-proxy", "Port": 21999, "Proxy": PROXY}
        fleet.put(more | {"ID": "with", "Checks": alias})
        assert fleet.others(mode="maintenance") == []
        (sentence,) = fleet.others()
        assert "'with'" in sentence
        fleet.put(more | {"ID": "without"})
        (sentence,) = fleet.others(mode="maintenance")
        assert "'without'" in sentence


def test_several_on_one_port(fleet: Fleet) -> None:
    """Each is named once, and the line has all that stood there before."""
    fleet.register()
    for n in range(7):
        fleet.put({"ID": f"web-{n}", "Name": f"web-{n}", "Address": "OURS"})
    said = fleet.others()
    assert len(said) == 6
    assert said[-1].startswith("2 more registrations lead to it: web-")
    (one,) = fleet.others(not_ours=tuple(f"web-{n}" for n in range(6)))
    assert 'not_ours = ["web-0", "web-1", "web-2", "web-3", "web-4", "web-5", "web-6"]' in one


def test_a_proxy_is_no_look_alike(fleet: Fleet) -> None:
    """Nobody is told to take it for the instance."""
    more = {"Name": "envoy", "Kind": "connect-proxy", "Port": 21999, "Proxy": PROXY}
    fleet.put(more | {"ID": "envoy"})
    assert len(fleet.others()) == 1
    assert fleet.registry().look_alikes() == []


def test_a_twin_that_is_another_app(fleet: Fleet) -> None:
    """The look passes over what is named, in its own service too."""
    fleet.put({"ID": "web", "Address": "OURS"})
    with pytest.raises(UnrecognisedError, match=r'not_ours = \["web"\]'):
        fleet.registry().look()
    told = fleet.registry(not_ours=("web",))
    assert not told.look().listed
    assert told.look_alikes() == []


def test_what_a_token_may_not_see(fleet: Fleet, tmp_path: Path) -> None:
    """It is left out, and a note says so; a token that may read all has no such note."""
    server = shared(acl=True)
    mine = Fleet(server)
    own = f'service "{mine.service}" {{ policy = "write" }}'
    rights = own + 'agent_prefix "" { policy = "read" }'
    nodes = 'node_prefix "" { policy = "read" }'
    every = 'service_prefix "" { policy = "read" }'
    try:
        mine.register()
        mine.put({"ID": "web", "Name": "web", "Address": "OURS"})
        for rules, seen, note in (
            (rights, False, "the services and nodes that its token may not read"),
            (rights + nodes, False, "the services that its token may not read"),
            (rights + nodes + every, True, ""),
            (own, False, "services and nodes"),
        ):
            (tmp_path / "token").write_text(server.new_token(rules))
            registry = mine.registry(token=Secret(file=tmp_path / "token"))
            assert any("'web'" in each for each in registry.other_registrations()) == seen
            assert any(note in each for each in registry.notes(None)) == bool(note)
    finally:
        server.deregister("web")
        server.deregister(mine.id)


def test_no_answer_is_an_error(fleet: Fleet) -> None:
    """Neither a refused connection nor an answer that is none of Consul's is nobody."""
    with pytest.raises(RegistryError, match="consul: cannot look for what else sends work to"):
        fleet.others(url="http://127.0.0.1:1")
    with (
        talking(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")) as server,
        pytest.raises(RegistryError, match="cannot look for what else"),
    ):
        fleet.others(url=f"http://127.0.0.1:{server.port}")


def test_it_cannot_leave_itself_out(fleet: Fleet) -> None:
    """That would be to ask for nothing."""
    with pytest.raises(ConfigError, match=r"not_ours: .* is the ID of the instance itself"):
        fleet.registry(not_ours=(fleet.id,))


def test_the_port_of_a_container(fleet: Fleet) -> None:
    """By the address that Consul has it under, and not by that of the instance."""
    (published,) = free_ports(1)
    fleet.register(Port=published)
    fleet.put({"ID": "web", "Name": "web", "Address": "OURS", "Port": published})
    registry = fleet.registry("172.17.0.2", address=f"{OURS}:{published}")
    (sentence,) = registry.other_registrations()
    assert "'web'" in sentence
