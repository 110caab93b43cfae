"""Upstreams as nobody wrote them: made at random, run by real workers, and taken out of."""

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from deregister_agent.errors import UnrecognisedError
from tests.integration.nginx_fleet import Fleet, take_out_and_put_back
from tests.servers.nginx import NEWEST, VERSIONS, WITH_MODULES, modules
from tests.unit.test_nginx_unproved import IN_THE_UPSTREAM, registry

TOGETHER = 50
RUNS = 40
"""Runs of TOGETHER upstreams each: 2,000. The first two stand for all in an ordinary run."""

OURS = [
    "127.0.0.1:{a}",
    "127.000.00.1:{a}",
    "127.0.0.1:0{a}",
    '"127.0.0.1:{a}"',
    "'127.0.0.1:{a}'",
    "[::ffff:127.0.0.1]:{a}",
]
OTHERS = ["127.0.0.1:{b}", "127.0.0.1:{b} weight=3", "'127.0.0.1:0{b}' fail_timeout=1s"]
BACKUP = "10.9.8.7:80 backup"
IDLE = ["127.0.0.1:{b} down", "10.9.8.7:80 down weight=2", "unix:/nowhere 'down'", BACKUP]
PARAMETERS = ["weight=2", "max_fails=0", "fail_timeout=3s", '"max_fails=2"', "max_conns=100"]
BALANCING = ["", "least_conn", "random", "random two", "random two least_conn"]
HTTP_BALANCING = ["ip_hash", "hash $request_uri", "hash $arg_session consistent", "hash $uri"]
STREAM_BALANCING = ["hash $remote_addr", "hash $remote_addr$remote_port consistent"]
NEWER = ["least_time header", "sticky cookie srv", "sticky route $arg_route"]
KEPT = ["keepalive 2", "keepalive 8; keepalive_timeout 9s", "keepalive 1; keepalive_requests 5"]
SPACES = [" ", "\n", "\t", "  ", ' # server 127.0.0.1:{a}; }} "\n', "\r\n", "\n\n#}}\n"]


def upstream(chance: random.Random, context: str, *, newest: bool) -> str:
    """Return what stands in an upstream, with a directive of app a, and one of app b that is up."""
    ways = BALANCING + (HTTP_BALANCING if context == "http" else STREAM_BALANCING)
    if newest and context == "http":
        ways += NEWER
    way = chance.choice(ways)
    hashes = way.startswith(("ip_hash", "hash", "random"))  # which take no backup
    servers = [chance.choice(OURS) for _ in range(chance.choice([1, 1, 1, 2, 3]))]
    servers = [
        " ".join([one, *chance.sample(PARAMETERS, chance.choice([0, 0, 1, 2]))]) for one in servers
    ]
    servers += chance.sample(OTHERS, chance.choice([1, 1, 2]))
    idle = [one for one in IDLE if not (hashes and one == BACKUP)]
    servers += chance.sample(idle, chance.choice([0, 0, 1, 2]))
    chance.shuffle(servers)
    lines = [f"server {one}" for one in servers]
    if chance.random() < 0.4:
        lines.insert(chance.randrange(len(lines) + 1), "zone z{n} 64k")
    if way and not way.startswith("sticky"):
        lines.insert(0, way)
    elif way:
        lines.append(way)
    if context == "http" and chance.random() < 0.4:
        lines.append(chance.choice(KEPT))  # after the way to balance, as Nginx wants it
    return "".join(_spaced(chance, line) for line in lines)


def _spaced(chance: random.Random, line: str) -> str:
    """Return a directive with other white space, and comments, between its words."""
    words = line.split(" ")
    spaced = "".join(chance.choice(SPACES) + word for word in words)
    return f"{spaced}{chance.choice(['', ' ', chr(10)])};"


def runs() -> list[object]:
    """Return the numbers of the runs; all but the first of each kind are for every night."""
    return [
        number if number < 2 else pytest.param(number, marks=pytest.mark.nightly)
        for number in range(RUNS)
    ]


@pytest.mark.parametrize("number", runs())
def test_generated_upstreams(number: int, tmp_path: Path) -> None:
    """Down, no request reaches the server through any worker; up again, every byte is as it was."""
    chance, context = random.Random(number), ["http", "stream"][number % 2]
    version = [VERSIONS[-1], WITH_MODULES[-1], NEWEST, NEWEST][number % 4]
    load = modules(version) if version in WITH_MODULES else ""
    newest = version == NEWEST
    blocks = [upstream(chance, context, newest=newest) for _ in range(TOGETHER)]
    with ExitStack() as stack:
        fleet = Fleet(stack, version, tmp_path, blocks, context=context, load=load, asked=6)
        assert all(registry.lists() for registry in fleet.registries())
        assert "a" in set().union(*fleet.reached().values())
        take_out_and_put_back(fleet)
        assert "a" in set().union(*fleet.reached().values())


@pytest.mark.parametrize("number", range(4))
def test_generated_upstreams_with_what_is_not_known(number: int, tmp_path: Path) -> None:
    """Put anywhere among the directives, what is not known is refused by its name, and only it."""
    chance = random.Random(number)
    for _ in range(TOGETHER):
        directive, name = chance.choice(IN_THE_UPSTREAM)
        lines = upstream(chance, "http", newest=True).format(a=8080, b=8081, n=0).split(";")
        text = ";".join(lines[:-1]) + ";"
        for made, refused in (
            (text, False),
            (f"{directive} {text}", True),
            (f"{text}\n{directive}", True),
        ):
            one = registry(
                tmp_path, f"http {{ upstream app {{ {made} }} }}", server="127.0.0.1:8080"
            )
            if refused:
                with pytest.raises(UnrecognisedError, match=rf"known of {name} "):
                    one.snapshot()
            else:
                assert one.snapshot() is not None
