"""The consul registry against a real Consul with default-deny ACLs: what a token may not see."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deregister_agent.config.options import Secret
from deregister_agent.errors import RegistryError
from deregister_agent.registries.consul.registry import Consul as Registry
from tests.servers.consul import Consul, shared
from tests.servers.orders import Orders

NODES = 'node_prefix "" { policy = "read" }\n'
AGENTS = 'agent_prefix "" { policy = "read" }\n'


@pytest.fixture(scope="module")
def agent() -> Iterator[Consul]:
    """Give a client agent, as on each host, joined to the shared server with ACLs."""
    with shared(acl=True).joined() as client:
        yield client


@pytest.fixture
def orders(agent: Consul) -> Iterator[Orders]:
    made = Orders(agent)
    made.register()
    yield made
    agent.deregister(made.id)


@pytest.fixture
def with_token(orders: Orders, tmp_path: Path) -> Callable[..., Registry]:
    """Give a function that returns the registry with a token that may do what the rules say."""

    def make(rules: str, **options: Any) -> Registry:
        file = tmp_path / "token"
        file.write_text(shared(acl=True).new_token(rules) + "\n")
        return orders.registry(token=Secret(file=file), timeout=10.0, **options)

    return make


def _may(orders: Orders, policy: str) -> str:
    return f'service "{orders.service}" {{ policy = "{policy}" }}\n'


def test_the_rights_that_the_page_names(
    orders: Orders, with_token: Callable[..., Registry]
) -> None:
    """With the documented rights, everything works, in both modes."""
    for mode in ("maintenance", "deregister"):
        registry = with_token(NODES + AGENTS + _may(orders, "write"), mode=mode)
        snapshot = registry.snapshot()
        registry.withdraw()
        assert not registry.lists()
        registry.restore(snapshot)
        assert registry.lists()


def test_a_token_that_may_not_change(orders: Orders, with_token: Callable[..., Registry]) -> None:
    """A token that may only read cannot withdraw; the error says what it needs."""
    registry = with_token(NODES + AGENTS + _may(orders, "read"))
    with pytest.raises(RegistryError, match=r"403 .*needs agent:read, node:read"):
        registry.withdraw()
    assert registry.lists()


@pytest.mark.parametrize("node_is_known", [True, False])
@pytest.mark.parametrize("rights", ["", "service", "node", "other"])
def test_what_it_may_not_see_is_not_absent(
    orders: Orders, with_token: Callable[..., Registry], rights: str, *, node_is_known: bool
) -> None:
    """Consul shows a token without rights an empty list: that is no proof, but an error."""
    rules = {
        "": "",
        "service": AGENTS + _may(orders, "write"),
        "node": AGENTS + NODES,
        "other": AGENTS + NODES + 'service "x" { policy = "write" }',
    }
    options = {"node": orders.agent.node} if node_is_known else {}
    registry = with_token(rules[rights], **options)
    with pytest.raises(RegistryError, match="its token needs"):
        registry.lists()
    orders.agent.deregister(orders.id)
    with pytest.raises(RegistryError, match="its token needs"):
        registry.lists()


def test_no_token_at_all(orders: Orders) -> None:
    """The anonymous token sees nothing, which is an error as well."""
    with pytest.raises(RegistryError):
        orders.registry(timeout=10.0).lists()


def test_a_token_that_was_deleted(orders: Orders, with_token: Callable[..., Registry]) -> None:
    """A token that Consul no longer knows is an error that shows Consul's words, not the token."""
    registry = with_token(NODES + AGENTS + _may(orders, "write"))
    assert registry.lists()
    options = registry._options
    assert options.token is not None
    secret = options.token.read()
    shared(acl=True).delete_token(secret)
    with pytest.raises(RegistryError, match="ACL not found") as caught:
        registry.lists()
    assert secret not in str(caught.value)


def test_the_node_may_be_named(orders: Orders, with_token: Callable[..., Registry]) -> None:
    """A token without agent:read is enough if the options name the node."""
    rules = NODES + _may(orders, "write")
    with_token(rules).withdraw()
    with pytest.raises(RegistryError, match="or set node"):
        with_token(rules).lists()
    assert not with_token(rules, node=orders.agent.node).lists()


@pytest.mark.parametrize("own_token", [True, False])
def test_a_sync_that_acls_block(tmp_path: Path, *, own_token: bool) -> None:
    """Consul says 200 and goes on listing it: never withdrawn, and the error says why."""
    server = shared(acl=True)
    (tmp_path / "token").write_text(server.token)
    with server.joined(own_token=own_token) as agent:
        orders = Orders(agent)
        # The agent tells the catalog with the token that the service was registered with.
        registered_with = server.new_token(NODES + _may(orders, "write"))
        orders.register(token=registered_with)
        server.delete_token(registered_with)
        registry = orders.registry(token=Secret(file=tmp_path / "token"), timeout=2.0)
        for _ in range(2):
            with pytest.raises(RegistryError, match="blocked by ACLs"):
                registry.withdraw()
            assert registry.lists()
        assert orders.entry() is not None
        held = agent.client.agent.services()
        assert orders.id not in held, "the agent itself has let go: its own word proves nothing"
        nodes = {"Node": agent.node, "ServiceID": orders.id}
        # py-consul's catalog.deregister() sends a field with the token that Consul refuses.
        server.ok("PUT", "/v1/catalog/deregister", nodes)
        assert not registry.lists()
