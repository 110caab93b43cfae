"""Instances in service, each in a registry of its own kind that can lose it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.integration.etcd_stage import Orders as Keys
from tests.integration.nginx_stage import World, make_world
from tests.integration.presence_stage import PROBE, READY, Host, TargetFile, running_host
from tests.loops import eventually
from tests.servers import consul, etcd, nginx
from tests.servers.child import wait_until
from tests.servers.orders import Orders


@dataclass
class Served:
    """One instance: how its registration is lost, and what there is of it."""

    lose: Callable[[], None]
    truth: Callable[[], object]


class Fleet:
    """The instances of a host, by what lists them."""

    def __init__(self, host: Host, stack: ExitStack) -> None:
        self.host, self.stack = host, stack
        self.served: dict[str, Served] = {}
        self.nginx_down = self.nginx()
        self.file("file")
        self.file("unchecked", more="")
        for n in (1, 2, 3):
            self.file(f"fleet-{n}", more="")
        self.etcd()
        self.command()
        self.consul("consul")
        self.consul("consul-defined", f"definition = '{host.root}/consul-defined.def.json'")
        self.consul("consul-checked", "# nothing has its checks")
        self.maintained = self.consul("consul-maintained", "mode = 'maintenance'")
        self.agent = stack.enter_context(consul.shared().joined())
        self.consul("consul-stopped", agent=self.agent)
        self.served["consul-stopped"].lose = self.agent.kill

    def nginx(self) -> World:
        """Add two servers of one upstream: one gets lost, and one is taken out by hand."""
        folder = self.host.root / "nginx"
        folder.mkdir()
        servers = f"server 127.0.0.1:{self.host.port}; server 127.0.0.1:{{b}}; server 127.0.0.1:9;"
        http = f"upstream app {{{{ {servers} }}}}"
        world = make_world(self.stack, nginx.VERSIONS[-1], folder, http=http)
        test, reload = world.nginx.command("-t", "-q"), world.nginx.command("-s", "reload")
        for name, port in (("nginx", self.host.port), ("nginx-down", world.b.port)):
            table = (
                f"kind = 'nginx'\nupstream = 'app'\nconfig = '{world.nginx.conf}'\n"
                f"server = '127.0.0.1:{port}'\ntest = {json.dumps(test)}\n"
                f"reload = {json.dumps(reload)}"
            )
            by_hand = name == "nginx-down"
            self.add(name, table, READY, restore_deadline=60 if by_hand else 3)
            new = f"server 127.0.0.1:{port} down;" if by_hand else ""
            change = partial(_reloaded, world, f"server 127.0.0.1:{port};", new)
            self.served[name] = Served(change, world.nginx.conf.read_text)
        return world

    def file(self, name: str, more: str = READY) -> None:
        """Add one that a target file lists in the midst of others."""
        file = TargetFile(self.host.root / f"{name}.json", "a:1", f"{name}:1", "b:1")
        self.add(name, file.table(f"target = '{name}:1'"), more)
        self.served[name] = Served(partial(file.write, "a:1", "b:1"), file.path.read_text)

    def command(self) -> None:
        """Add one that a program lists, which cannot tell by whom it is out."""
        state = self.host.root / "command.state"
        state.write_text("listed")
        says = f"case $(cat {state}) in listed) exit 0;; out) exit 4;; *) exit 3;; esac"
        table = "kind = 'command'\nout_status = 4\n" + "".join(
            f"{key} = {json.dumps(['sh', '-c', script])}\n"
            for key, script in (
                ("lists", says),
                ("withdraw", f"echo out > {state}"),
                ("restore", f"echo listed > {state}"),
            )
        )
        self.add("command", table, READY)

        def lose() -> None:
            state.write_text("out")

        self.served["command"] = Served(lose, lambda: state.read_text().strip())

    def etcd(self) -> None:
        """Add one whose key hangs on the lease of its app."""
        keys = Keys(etcd.shared(etcd.VERSIONS[-1]))
        self.stack.callback(keys.node.revoke, keys.lease)
        keys.register()
        table = f"kind = 'etcd'\nendpoints = ['{keys.node.url}']\nprefix = '{keys.prefix}'"
        self.add("etcd", table, READY, port=keys.ports[0])
        self.served["etcd"] = Served(
            partial(keys.node.delete, keys.key()), lambda: keys.node.keyspace().get(keys.key())
        )

    def consul(self, name: str, *options: str, agent: consul.Consul | None = None) -> Orders:
        """Add one that Consul lists; a check of its own where *options* are given."""
        orders = Orders(agent or consul.shared())
        if agent is None:  # what another agent has, ends with it
            self.stack.callback(orders.agent.deregister, orders.id)
        checked: dict[str, Any] = {"Check": _check(orders)} if options else {}
        orders.register(**checked)
        defined = {"service": orders.definition(Checks=[_check(orders)])}
        (self.host.root / f"{name}.def.json").write_text(json.dumps(defined))
        table = f"kind = 'consul'\nurl = '{orders.agent.url}'\nservice_id = '{orders.id}'\n"
        self.add(name, table + "\n".join(options), READY, service=orders.service, port=orders.port)

        def lose() -> None:
            orders.agent.deregister(orders.id)
            eventually(lambda: orders.entry() is None, "the catalog has lost it")

        self.served[name] = Served(lose, lambda: _entry(orders))
        return orders

    def add(self, name: str, table: str, more: str, **keys: Any) -> None:
        """Write an instance down; *more* is READY, or nothing asks whether it is."""
        self.host.add(name, table, probe=PROBE + more, **keys)


def _reloaded(world: World, old: str, new: str) -> None:
    """Change Nginx' file as an operator does, and load it."""
    world.rewrite(old, new)
    written = world.nginx.conf.stat().st_mtime
    wait_until(lambda: time.time() > written + 0.05, "file times and start times differ")
    world.reload()
    nginx.settled(world.nginx)


def _check(orders: Orders) -> dict[str, str]:
    name = f"{orders.id}-alive"
    return {"CheckID": name, "Name": name, "TTL": "1h", "Status": "passing"}


def _entry(orders: Orders) -> object:
    service = (orders.entry() or {}).get("Service", {})
    kept = {key: service.get(key) for key in ("ID", "Address", "Port", "Tags", "Meta")}
    return kept, orders.checks()


@contextmanager
def running_fleet(root: Path) -> Iterator[Fleet]:
    """Give the instances, all in service and known to be, and the agent beside them."""
    with ExitStack() as stack:
        host = stack.enter_context(running_host(root))
        fleet = Fleet(host, stack)
        stack.enter_context(host.agent())
        for name in fleet.served:
            eventually(partial(is_served, host, name), f"{name} is in service")
        yield fleet


def is_served(host: Host, name: str) -> bool:
    """Tell whether traffic-started says so."""
    return host.get(name, "traffic-started").status == 200
