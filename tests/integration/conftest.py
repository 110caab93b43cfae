"""What several integration tests begin with."""

from collections.abc import Iterator

import pytest

from tests.servers.consul import Consul, shared


@pytest.fixture(scope="module")
def agent() -> Iterator[Consul]:
    """Give a client agent, as on each host, joined to the shared server."""
    with shared().joined() as client:
        yield client
