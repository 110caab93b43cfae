"""What several integration tests begin with."""

from collections.abc import Iterator

import pytest

from tests.servers import etcd
from tests.servers.consul import Consul, shared


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
