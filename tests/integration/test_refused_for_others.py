"""A registry that has the instance under other names too refuses the drain, and names them."""

import json
import re
from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.etcd_stage import Orders as Keys
from tests.integration.nginx_stage import make_world
from tests.integration.presence_stage import LIMIT, Host, TargetFile, running_host
from tests.servers import consul, etcd, nginx
from tests.servers.orders import Orders

TYPE = "urn:deregister-agent:other-registrations"


@dataclass
class Twice:
    """An instance that one registry has twice: how the one is configured, and the other's name."""

    table: str
    other: str
    second: str  # how the other is configured
    truth: Callable[[], Sized]


class Site:
    """Instances that a registry of each kind has under two names, and a file beside it."""

    def __init__(self, host: Host, stack: ExitStack) -> None:
        self.host, self.stack = host, stack
        self.beside = TargetFile(host.root / "beside.json")
        self.twice: dict[str, Twice] = {}
        self.places: dict[str, dict[str, Any]] = {}
        self.consul()
        self.etcd()
        self.file()
        self.nginx()
        self.beside.write(*(f"{name}:80" for name in self.twice))

    def consul(self) -> None:
        """Register an app under two services, as one that exports metrics of its own."""
        orders = Orders(consul.shared())
        agent = orders.agent.client.agent
        other = f"{orders.id}-metrics"
        orders.register()
        orders.agent.register(orders.definition(ID=other, Name=f"{orders.service}-metrics"))
        for each in (orders.id, other):
            self.stack.callback(orders.agent.deregister, each)
        table = f'kind = "consul"\nurl = "{orders.agent.url}"\nservice_id = "{orders.id}"'
        where = {"service": orders.service, "port": orders.port}
        second = table.replace(orders.id, other) + f'\nservice = "{orders.service}-metrics"'
        ids = {orders.id, other}
        twice = Twice(table, other, second, lambda: sorted(ids & set(agent.services())))
        self.add("consul", twice, **where)

    def etcd(self) -> None:
        """Write a second key, as somebody does who lists targets of a scraper."""
        keys = Keys(etcd.shared(etcd.VERSIONS[-1]))
        self.stack.callback(keys.node.revoke, keys.lease)
        keys.register()
        other = f"{keys.prefix}/scraped"
        keys.node.put(other, f"scrape http://127.0.0.1:{keys.ports[0]}/metrics", keys.lease)
        table = f'kind = "etcd"\nendpoints = ["{keys.node.url}"]\nkey = "{keys.key()}"'
        second, both = table.replace(keys.key(), other), (keys.key(), other)
        twice = Twice(table, other, second, lambda: [one for one in both if keys.node.get(one)])
        self.add("etcd", twice, port=keys.ports[0])

    def file(self) -> None:
        """List it once more, in the spelling of a scraper."""
        other = f"http://127.0.0.1:{self.host.port}/"
        ours = f"127.0.0.1:{self.host.port}"
        file = TargetFile(self.host.root / "twice.json", "10.0.0.9:80", ours, other)
        second = file.table(f"target = '{other}'")
        there = {ours, other}
        twice = Twice(file.table(), other, second, lambda: sorted(there & set(file.targets())))
        self.add("file", twice)

    def nginx(self) -> None:
        """Let a second upstream lead to it."""
        folder = self.host.root / "nginx"
        folder.mkdir()
        ours = f"server 127.0.0.1:{self.host.port};"
        http = (
            f"upstream app {{{{ {ours} server 127.0.0.1:{{b}}; }}}} upstream old {{{{ {ours} }}}}"
        )
        world = make_world(self.stack, nginx.VERSIONS[-1], folder, http=http)
        test, reload = world.nginx.command("-t", "-q"), world.nginx.command("-s", "reload")
        table = (
            f'kind = "nginx"\nupstream = "app"\nconfig = "{world.nginx.conf}"\n'
            f"test = {json.dumps(test)}\nreload = {json.dumps(reload)}"
        )
        up, conf = f"server 127.0.0.1:{self.host.port};", world.nginx.conf
        second = table.replace('"app"', '"old"')
        twice = Twice(table, "old", second, lambda: [up] * conf.read_text().count(up))
        self.add("nginx", twice)

    def add(self, name: str, twice: Twice, **place: Any) -> None:
        """Write an instance down, which a file lists, too."""
        self.twice[name], self.places[name] = twice, place
        self.write(name)

    def write(self, name: str, line: str = "", *more: str) -> None:
        """Write it down anew, with one line more, and *more* registries."""
        right = self.beside.table(f'target = "{name}:80"', 'name = "beside"')
        tables = (f"{self.twice[name].table}\n{line}", *more)
        self.host.add(name, right, *tables, **self.places[name])


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack.enter_context(running_host(tmp_path)), stack)


def test_what_would_go_on_sending_work_refuses_the_drain(site: Site) -> None:
    """409 of its own type, exit 4, doctor says so; with the line of the text it is drained."""
    before = {name: one.truth() for name, one in site.twice.items()}
    lines: dict[str, str] = {}
    with site.host.agent():
        for name, one in site.twice.items():
            lines[name] = _is_refused(site.host, name, one)
    assert {name: one.truth() for name, one in site.twice.items()} == before
    assert len(site.beside.targets()) == len(site.twice)
    for name, line in lines.items():
        site.write(name, line)
    _drained(site)
    assert all(len(one.truth()) == 1 for one in site.twice.values())


def test_what_is_withdrawn_as_well_is_nobody_elses(site: Site) -> None:
    """A registry for each of the two names: neither takes the other for somebody else's."""
    for name, one in site.twice.items():
        site.write(name, "", f'name = "second"\n{one.second}')
    _drained(site)
    assert not any(one.truth() for one in site.twice.values())


def _drained(site: Site) -> None:
    """Let all be drained."""
    with site.host.agent():
        for name in site.twice:
            doctor = site.host.run("doctor", name)
            assert doctor.returncode == 0, doctor.stdout
            assert site.host.post(name, "stop-traffic").status == 202
            drained = site.host.get(name, "traffic-drained", wait=LIMIT)
            assert (drained.status, drained.body["drain"]["outcome"]) == (200, "drained"), name
    assert site.beside.targets() == []


def _is_refused(host: Host, name: str, one: Twice) -> str:
    """Return the line that the refusal says to write."""
    answer = host.post(name, "stop-traffic")
    assert (answer.status, answer.body.get("type")) == (409, TYPE), answer.body
    (said,) = answer.body["other_registrations"]
    assert (answer.body["registry"], one.other in said) == (name, True)
    command = host.run("drain", name, "--wait", "--force")
    assert (command.returncode, command.stdout) == (4, "")
    assert command.stderr == f"deregister-agent: {answer.detail}\n"
    assert (host.phase(name), host.get(name).body["drain"]) == ("serving", None)
    doctor = host.run("doctor", name)
    assert (doctor.returncode, "what else sends it work" in doctor.stdout) == (6, True)
    line = re.search(r"not_ours = \[[^]]*\]", said)
    assert line is not None
    return line[0]
