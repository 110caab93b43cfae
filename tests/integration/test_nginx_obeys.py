"""Real Nginx: every directive of OBEYING leaves a server alone that is down."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.registries.nginx.known_directives import OBEYING
from tests.integration.nginx_fleet import Fleet, take_out_and_put_back
from tests.servers.nginx import (
    NEWEST,
    THIRD_PARTY,
    VERSIONS,
    WITH_MODULES,
    modules,
)

TWO = "server 127.0.0.1:{a}; server 127.0.0.1:{b};"
EVERYWHERE = [
    TWO,
    f"least_conn; {TWO}",
    f"zone z{{n}} 64k; least_conn; {TWO}",
    f"random; {TWO}",
    f"random two; {TWO}",
    f"random two least_conn; {TWO}",
    f"zone z{{n}} 64k; random two; {TWO}",
    f"zone z{{n}} 64k; {TWO}",
]
"""What http and stream, and every version, have in common."""
HTTP = [
    f"ip_hash; {TWO}",
    f"hash $request_uri; {TWO}",
    f"hash $request_uri consistent; {TWO}",
    f"zone z{{n}} 64k; hash $request_uri consistent; {TWO}",
    f"{TWO} keepalive 4; keepalive_requests 10; keepalive_time 1m; keepalive_timeout 5s;",
    f"zone z{{n}} 64k; least_conn; {TWO} keepalive 4;",
]
STREAM = [f"hash $remote_addr; {TWO}", f"hash $remote_addr consistent; {TWO}"]
ROUTES = "server 127.0.0.1:{a} route=a; server 127.0.0.1:{b} route=b;"
LEARN = "sticky learn create=$upstream_addr lookup=$arg_session zone=s{n}:1m;"
STICKY_HTTP = [
    f"{TWO} sticky cookie route expires=1h;",
    f"zone z{{n}} 64k; least_conn; {TWO} sticky cookie route;",
    f"{ROUTES} sticky route $arg_route;",
    f"zone z{{n}} 64k; {TWO} {LEARN}",
]
NEWER = [
    f"least_time header; {TWO}",
    f"zone z{{n}} 64k; least_time last_byte inflight; {TWO}",
    f"zone z{{n}} 64k; resolver 127.0.0.1:9; resolver_timeout 1s; {TWO}",
]
STREAM_NEWER = [f"least_time connect; {TWO}", f"zone z{{n}} 64k; least_time first_byte; {TWO}"]
FAIR = [f"fair; {TWO}", f"fair no_rr; {TWO}", f"{TWO} fair weight_mode=idle;"]


def leaves_alone(fleet: Fleet) -> None:
    """Take app a out of every upstream, and put it back: it gets work then, and only then."""
    assert without_a(fleet) == []
    take_out_and_put_back(fleet)
    fleet.cookies.clear()  # of clients that were bound to app b meanwhile
    assert without_a(fleet) == []


def without_a(fleet: Fleet) -> list[str]:
    """Return the upstreams that give app a no work, or more than that of both."""
    return [block for block, seen in fleet.reached().items() if not {"a"} <= seen <= {"a", "b"}]


@pytest.mark.parametrize("version", VERSIONS)
def test_of_nginx_itself(version: str, tmp_path: Path) -> None:
    """Turns, connections, hashes, chance; with shared memory and kept connections, and without."""
    with ExitStack() as stack:
        leaves_alone(Fleet(stack, version, tmp_path, EVERYWHERE + HTTP))


@pytest.mark.parametrize("version", [*WITH_MODULES, NEWEST])
def test_of_streams(version: str, tmp_path: Path) -> None:
    """The same for TCP."""
    newest = version == NEWEST
    blocks = EVERYWHERE + STREAM + (STREAM_NEWER if newest else [])
    load = "" if newest else modules(version)
    with ExitStack() as stack:
        leaves_alone(Fleet(stack, version, tmp_path, blocks, context="stream", load=load))


def test_of_the_newest(tmp_path: Path) -> None:
    """Sessions that were bound to the server go elsewhere, however they were bound."""
    with ExitStack() as stack:
        blocks = EVERYWHERE + HTTP + STICKY_HTTP + NEWER
        leaves_alone(Fleet(stack, NEWEST, tmp_path, blocks))


def test_of_a_module_that_is_not_nginx_own(tmp_path: Path) -> None:
    """``fair`` passes over what is down."""
    with ExitStack() as stack:
        load = modules(THIRD_PARTY, ["ngx_http_upstream_fair_module"])
        more = "upstream_fair_shm_size 64k;"
        leaves_alone(Fleet(stack, THIRD_PARTY, tmp_path, FAIR, load=load, more=more))


def test_nothing_else_is_taken_to_obey() -> None:
    """Every name on the list stands in an arrangement above."""
    tried = " ".join(EVERYWHERE + HTTP + STREAM + STICKY_HTTP + NEWER + FAIR)
    assert {name.decode() for name in OBEYING} == set(re.findall(r"(?:^|; )([a-z_]+)", tried)) - {
        "server"
    }
