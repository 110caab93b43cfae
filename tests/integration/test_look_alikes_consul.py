"""Whatever Consul has of an instance that is not found by name and ID: it is told."""

from collections.abc import Iterator
from typing import Any

import pytest

from deregister_agent.config.options import Secret
from deregister_agent.demo.stage import free_ports
from deregister_agent.errors import RegistryError, UnrecognisedError
from deregister_agent.model import Listing
from deregister_agent.registries.consul.registry import Consul as Registry
from tests.servers.consul import Consul, shared
from tests.servers.orders import Orders


@pytest.fixture
def orders(agent: Consul) -> Iterator[Orders]:
    """Give a service, and take everything out afterwards that the test has registered."""
    yield Orders(agent)
    for each in agent.client.agent.services():
        agent.deregister(each)


def told(registry: Registry) -> list[str]:
    """Return what is said of the instance, which must be neither listed nor out."""
    try:
        assert registry.look().listing is Listing.ABSENT
    except UnrecognisedError as e:
        return [str(e)]
    return list(registry.look_alikes())


def _line(service: str, id_: str) -> str:
    return f'write service = "{service}" and service_id = "{id_}"'


@pytest.mark.parametrize(
    ("id_", "address"),
    [
        ("{service}-{port}", "web-1.internal"),  # Spring Cloud Consul's defaults
        ("{service}-dev-{port}", "localhost"),  # the same with a profile
        ("web-1:{service}:{port}", ""),  # registrator: at the address of the node
        ("{service}-5f2b", "Web-1."),  # go-micro, of another spelling
        ("web-1", ""),  # kratos: the name of the host alone
        ("{service}", "host.docker.internal"),  # Consul's own default: the ID is the name
        ("Orders_Web1_{port}", "::ffff:127.0.0.1"),  # Steeltoe
    ],
)
def test_another_id(orders: Orders, id_: str, address: str) -> None:
    """An ID that a framework makes, with the port of the instance on its node."""
    id_ = id_.format(service=orders.service, port=orders.port)
    orders.agent.register(orders.definition(ID=id_, Address=address))
    (sentence,) = told(orders.registry())
    assert id_ in sentence
    assert _line(orders.service, id_) in sentence or f'service_id = "{id_}"' in sentence
    assert orders.registry(service_id=id_).look().listed


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("{}p", "{}"),  # shopp for shop
        ("{}", "{}s"),
        ("{}", "go.micro.srv.{}"),
        ("{}", "{}-http"),
        ("orders", "providers:com.x.Orders::"),  # dubbo
        ("billing", "{}"),  # not alike at all, but the port is ours
    ],
)
@pytest.mark.parametrize("id_", ["{service}-1", "{service}-{port}"])
def test_another_service(orders: Orders, mine: str, theirs: str, id_: str) -> None:
    """The name of the service is wrong, with the right ID or another one."""
    theirs = theirs.format(orders.service)
    id_ = id_.format(service=orders.service, port=orders.port)
    orders.agent.register(orders.definition(Name=theirs, ID=id_))
    (sentence,) = told(orders.registry(service=mine.format(orders.service)))
    assert f'service = "{theirs}"' in sentence
    assert theirs in sentence
    assert orders.registry(service=theirs, service_id=id_).look().listed


def test_a_name_in_other_letters(orders: Orders) -> None:
    """Consul tells apart what differs in letter case alone; people do not."""
    name = orders.service.title()
    orders.agent.register(orders.definition(Name=name, ID="web-1"))
    (sentence,) = told(orders.registry())
    assert f'service = "{name}"' in sentence or "'web-1'" in sentence


def test_at_another_agent(orders: Orders) -> None:
    """The app is registered with another agent: its node is named, as that is where to ask."""
    server = shared()
    server.register(orders.definition(ID="web-1", Address="web-1.internal"))
    try:
        (sentence,) = told(orders.registry())
        assert f"as url the agent of node {server.node}" in sentence
        assert "'web-1'" in sentence
        assert told(orders.registry(service=f"{orders.service}x"))
    finally:
        server.deregister("web-1")


def test_another_port(orders: Orders) -> None:
    """Something with a like ID on the node is named where nothing has the port."""
    (port,) = free_ports(1)
    orders.agent.register(orders.definition(ID=f"{orders.id}0", Port=port))
    (sentence,) = told(orders.registry())
    assert f'service_id = "{orders.id}0" and address = "127.0.0.1:{port}"' in sentence


def test_other_instances_are_not_named(orders: Orders) -> None:
    """Neither a neighbour with a like ID, where something has our port, nor another host."""
    (port,) = free_ports(1)
    orders.agent.register(orders.definition(ID=f"{orders.service}-2", Port=port))
    orders.agent.register(orders.definition(ID="elsewhere", Address="192.0.2.7"))
    orders.agent.register(orders.definition(ID="web-1", Address="web-1.internal"))
    (sentence,) = told(orders.registry())
    assert "'web-1'" in sentence


def test_it_is_bounded(orders: Orders) -> None:
    """However many there are, five are named."""
    for n in range(8):
        orders.agent.register_only(orders.definition(ID=f"web-{n}", Address=f"web-{n}.internal"))
    orders.agent.register(orders.definition(ID="web-9", Address="web-9.internal"))
    assert len(told(orders.registry())) == 5


def test_nothing_at_all(orders: Orders) -> None:
    """Nothing is said of nothing; an agent that does not answer is an error."""
    assert told(orders.registry()) == []
    with pytest.raises(RegistryError, match="cannot look for what looks like"):
        orders.registry(url="http://127.0.0.1:1").look_alikes()


def test_the_very_address_in_the_service_is_no_absence(orders: Orders) -> None:
    """It would get the work still: the look itself raises, with the ID to write."""
    orders.register()
    with pytest.raises(UnrecognisedError, match=f'service_id = "{orders.id}"') as caught:
        orders.registry(service_id="other").look()
    assert str(caught.value).startswith("consul: cannot look up other: ")


def test_what_a_token_may_not_see(orders: Orders, tmp_path: Any) -> None:
    """With rights for its own service alone, what it may see is named, and nothing breaks."""
    server = shared(acl=True)
    rules = f'service_prefix "{orders.service}" {{ policy = "write" }}\n'
    (tmp_path / "token").write_text(
        server.new_token(
            rules + 'node_prefix "" { policy = "read" }\nagent_prefix "" { policy = "read" }'
        )
    )
    other = Orders(server)
    other.agent.register(orders.definition(ID="web-1", Address="web-1.internal"))
    try:
        token = Secret(file=tmp_path / "token")
        (sentence,) = told(orders.registry(url=server.url, token=token))
        assert "'web-1'" in sentence
    finally:
        server.deregister("web-1")
