"""What several integration tests begin with."""

from collections.abc import Iterator

import pytest

from tests.servers import etcd, rabbitmq
from tests.servers.consul import Consul, shared
from tests.servers.redis import Redis


@pytest.fixture(scope="module")
def agent() -> Iterator[Consul]:
    """Give a client agent, as on each host, joined to the shared server."""
    with shared().joined() as client:
        yield client


@pytest.fixture(params=etcd.VERSIONS)
def clean_node(request: pytest.FixtureRequest) -> Iterator[etcd.Etcd]:
    """Give a member of etcd, and take away what a test has written."""
    made = etcd.shared(request.param)
    before = set(made.keyspace())
    yield made
    for key in set(made.keyspace()) - before:
        made.delete(key)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Give a Redis of the module's own."""
    with Redis(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis_url(redis: Redis) -> str:
    """Return where it is; nothing is in it."""
    redis.call("FLUSHALL")
    return f"{redis.url}/0"


@pytest.fixture(scope="module")
def rabbit() -> rabbitmq.RabbitMQ:
    """Give the broker."""
    return rabbitmq.shared()


@pytest.fixture
def rabbit_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the broker's password where rabbit_stage's probes look for it."""
    monkeypatch.setenv("RABBIT", "guest")


@pytest.fixture
def vhost(rabbit: rabbitmq.RabbitMQ) -> Iterator[str]:
    """Give a virtual host of the test's own."""
    with rabbitmq.own_host(rabbit) as name:
        yield name
