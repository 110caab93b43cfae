"""Logins, rights, certificates, and an etcd whose gateway is off."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd3gw.exceptions import Etcd3Exception

from deregister_agent.errors import RegistryError
from deregister_agent.model import Phase
from deregister_agent.probes.ready_check import ReadyOptions, UrlReadyCheck
from deregister_agent.registries.etcd.registry import Etcd as Registry
from tests.apps.pages import page, pages
from tests.integration.etcd_stage import Orders, agent
from tests.servers.etcd import VERSIONS, Etcd, etcd

USER, PASSWORD = "deregister-agent", "geheim-1"


@pytest.fixture(scope="module", params=VERSIONS)
def node(request: pytest.FixtureRequest) -> Iterator[Etcd]:
    """Give a member with TLS, client certificates and logins."""
    with etcd(request.param, tls=True) as made:
        made.enable_auth()
        yield made


@pytest.fixture
def orders(node: Etcd) -> Iterator[Orders]:
    made = Orders(node, 2)
    made.register(0)
    made.register(1)
    beside = node.keyspace(without=made.key())
    yield made
    assert node.keyspace(without=made.key()) == beside
    node.clear(f"{made.prefix}/")  # what hangs on a lease of the agent's too
    node.revoke(made.lease)


def _registry(orders: Orders, folder: Path, **options: Any) -> Registry:
    (folder / "password").write_text(PASSWORD + "\n")
    here = orders.node.folder
    given = {
        "user": USER,
        "password": {"file": str(folder / "password")},
        "ca": str(here / "ca.pem"),
        "certificate": str(here / "nameless.pem"),
        "certificate_key": str(here / "nameless.key"),
    }
    return orders.registry(**{k: v for k, v in (given | options).items() if v is not None})


def _allow(orders: Orders) -> None:
    """Add the agent's user, who may only touch this service."""
    login = orders.node.login
    for path, user in (
        ("/auth/user/delete", {"name": USER}),
        ("/auth/role/delete", {"role": USER}),
    ):
        orders.node.login = login
        try:
            orders.node.call(path, user)
        except Etcd3Exception:
            continue  # it was not there
    orders.node.add_user(USER, PASSWORD, prefix=f"{orders.prefix}/")


def test_a_user_with_just_these_rights(orders: Orders, tmp_path: Path) -> None:
    """Read and write over the prefix is all that it takes, watch included."""
    _allow(orders)
    before, one = orders.node.keyspace(), _registry(orders, tmp_path)
    snapshot, cursor = one.snapshot(), one.watch(None, 30)
    assert one.others() == 1
    one.withdraw()
    assert one.watch(cursor, 30) != cursor
    assert not one.lists()
    one.restore(snapshot)
    assert orders.node.keyspace() == before


@pytest.mark.parametrize("lease", ["app", "agent"])
def test_a_whole_drain_with_just_these_rights(orders: Orders, tmp_path: Path, lease: str) -> None:
    """There and back over TLS, as that user; a lease of the agent's takes no other right."""
    _allow(orders)
    one = _registry(orders, tmp_path, lease=lease)
    with pages(lambda _: page("ready")) as app:
        ready = [UrlReadyCheck(ReadyOptions(url=app.url, every=0.05))]
        with agent(tmp_path, [one], ready=ready) as (loop,):
            loop.stop_traffic()
            loop.reaches(Phase.DRAINED)
            assert orders.node.get(orders.key()) is None
            loop.loop.start_traffic("test", "test")
            loop.reaches(Phase.SERVING)
            kept_on = orders.node.keyspace()[orders.key()][1]
            assert (kept_on == orders.lease) is (lease == "app")


def test_a_token_that_has_expired_is_renewed(orders: Orders, tmp_path: Path) -> None:
    """When etcd has forgotten the token, reads, writes and the watch log in again."""
    _allow(orders)
    node, one = orders.node, _registry(orders, tmp_path)
    cursor = one.watch(None, 30)

    def forget() -> None:
        node.disable_auth()
        node.call("/auth/enable", {})
        node.login = ("root", "root-password")

    forget()
    assert one.lists()
    forget()
    orders.register()
    assert one.watch(cursor, 30) != cursor
    forget()
    one.withdraw()
    assert not one.lists()
    node.disable_auth()
    assert not one.lists()
    node.call("/auth/enable", {})
    node.login = ("root", "root-password")
    assert not one.lists()


def test_what_may_not_be_read_is_not_absent(orders: Orders, tmp_path: Path) -> None:
    """Without the right to read, each call is an error with the remedy, not "not listed"."""
    _allow(orders)
    one = _registry(orders, tmp_path, prefix="elsewhere/")
    for call in (one.lists, one.withdraw, one.others, lambda: one.watch("1", 5)):
        with pytest.raises(RegistryError, match=r"permission denied.*needs a role"):
            call()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"user": None, "password": None}, "set user and password|its user needs a role"),
        ({"user": "nobody"}, "correct user or password"),
        ({"certificate": "client.pem", "certificate_key": "client.key"}, "has a common name"),
        ({"ca": "other.pem"}, "certificate verify failed"),
        ({"certificate": None, "certificate_key": None}, "certificate required|TLS failed"),
    ],
)
def test_who_is_not_trusted_is_told_what_to_do(
    orders: Orders, tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    """Each way of not being let in is an error that says why, and never the password."""
    _allow(orders)
    here = {k: str(orders.node.folder / v) if k in FILES and v else v for k, v in options.items()}
    with pytest.raises(RegistryError, match=why) as caught:
        _registry(orders, tmp_path, **here).lists()
    assert PASSWORD not in str(caught.value)


FILES = {"ca", "certificate", "certificate_key"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_gateway_that_is_off(version: str, tmp_path: Path) -> None:
    """An etcd without the JSON gateway is told from one that lists nothing."""
    with etcd(version, ready=False, enable_grpc_gateway="false") as node:
        one = Orders.__new__(Orders)
        one.node, one.ports, one.prefix = node, [1], "orders"
        with pytest.raises(RegistryError, match="enable-grpc-gateway"):
            one.registry().lists()
        with pytest.raises(RegistryError, match="enable-grpc-gateway"):
            one.registry().watch("1", 5)
