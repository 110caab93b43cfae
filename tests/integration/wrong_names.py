"""Registries that are looked into under a wrong name: one small world for each way to be wrong."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deregister_agent.demo.stage import free_ports
from tests.contract.registries.agent import far_agent
from tests.integration.nginx_stage import World as NginxWorld
from tests.integration.nginx_stage import make_world
from tests.integration.presence_stage import TargetFile
from tests.servers import consul, etcd, nginx
from tests.servers.admin import Nacos, serving
from tests.servers.orders import Orders

Fix = Callable[[str], str]
"""Make of the refusal's text the registry's table as it should be; or mend the registry."""


@dataclass
class Row:
    """A registry that is configured wrongly, and what the refusal must tell of it."""

    table: str
    alike: str
    line: str
    fix: Fix
    instance: dict[str, Any] = field(default_factory=dict)


@dataclass
class Makers:
    """Where the worlds are made: the servers run once for all rows, if they are needed."""

    root: Path
    port: int
    stack: ExitStack
    orders: list[Orders] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    files: list[TargetFile] = field(default_factory=list)

    @cached_property
    def etcd(self) -> etcd.Etcd:
        return etcd.shared(etcd.VERSIONS[-1])

    @cached_property
    def nginx(self) -> NginxWorld:
        folder = self.root / "nginx"
        folder.mkdir()
        http = (
            f"upstream app {{{{ server 127.0.0.1:{self.port}; server 127.0.0.1:{{b}}; }}}}"
            "upstream metrics {{ server 127.0.0.1:9; }}"
        )
        return make_world(self.stack, nginx.VERSIONS[-1], folder, http=http)

    @cached_property
    def nacos(self) -> Nacos:
        system = Nacos()
        system.register("10.0.0.9", self.port)
        return system

    @cached_property
    def far(self) -> tuple[Path, str]:
        folder = self.root / "far"
        folder.mkdir()
        self.stack.enter_context(far_agent(folder, [self.port, *free_ports(1)]))
        return folder / "targets.json", f"http+unix://{quote(f'{folder}/far.sock', safe='')}"

    @cached_property
    def names(self) -> Path:
        """The list of the third party's registry."""
        path = self.root / "names"
        path.write_text("orders-2\n")
        return path

    def truth(self) -> object:
        """Return all that the registries have."""
        keys = {k: v for p in self.prefixes for k, v in self.etcd.keyspace().items() if p in k}
        entries = [[e["Service"] for e in one.agent.entries(one.service)] for one in self.orders]
        texts = [one.path.read_text() for one in self.files]
        texts += [
            self.names.read_text(),
            self.far[0].read_text(),
            self.nginx.nginx.conf.read_text(),
        ]
        return keys, entries, texts, self.nacos.entries, self.nginx.nginx.reloads()

    def close(self) -> None:
        """Take out what was put into servers that others share."""
        for one in self.orders:
            for name in list(one.agent.client.agent.services()):
                if one.service in name:
                    one.agent.deregister(name)
        for prefix in self.prefixes:
            for key in [key for key in self.etcd.keyspace() if prefix in key]:
                self.etcd.delete(key)


@contextmanager
def makers(root: Path, port: int) -> Iterator[Makers]:
    """Give the makers, and end what they have started."""
    with ExitStack() as stack:
        made = Makers(root, port, stack)
        stack.callback(made.close)
        yield made


def _mended(table: str, wrong: str, line: str) -> Fix:
    """Return what puts the *line* that the text has in place of the *wrong* one."""

    def fix(text: str) -> str:
        (found,) = re.findall(line, text) or [f"no {line!r}"]
        return table.replace(wrong, found.replace(" and ", "\n"))

    return fix


def _consul_service(makers: Makers) -> Row:
    orders = Orders(consul.shared())
    makers.orders.append(orders)
    orders.register()
    wrong = f'service = "{orders.service}p"'
    table = f'kind = "consul"\nurl = "{orders.agent.url}"\n{wrong}'
    line = f'service = "{orders.service}" and service_id = "{orders.id}"'
    fix = _mended(table, wrong, re.escape(line))
    return Row(table, orders.id, line, fix, {"service": orders.service, "port": orders.port})


def _consul_spring(makers: Makers) -> Row:
    orders = Orders(consul.shared())
    makers.orders.append(orders)
    spring = f"{orders.service}-{orders.port}"
    orders.agent.register(orders.definition(ID=spring, Address="web-1.internal"))
    table = f'kind = "consul"\nurl = "{orders.agent.url}"\n# as named'
    line = f'service_id = "{spring}"'
    fix = _mended(table, "# as named", re.escape(line))
    return Row(table, spring, line, fix, {"service": orders.service, "port": orders.port})


def _etcd(name: str, value: object, port: int = 8080) -> Callable[[Makers], Row]:
    def make(makers: Makers) -> Row:
        prefix = f"wrong-{free_ports(1)[0]}.rpc"
        return _key(makers, prefix, f"{prefix}/{name}", value, port)

    return make


def _key(makers: Makers, prefix: str, key: str, value: object, port: int = 8080) -> Row:
    makers.prefixes.append(prefix)
    makers.etcd.put(key, value if isinstance(value, str) else json.dumps(value))
    wrong = f'prefix = "{prefix}"'
    table = f'kind = "etcd"\nendpoints = ["{makers.etcd.url}"]\n{wrong}'
    line = f"key = {json.dumps(key)}"
    fix = _mended(table, wrong, re.escape(line))
    return Row(table, key, line, fix, {"address": "10.0.0.7", "port": port})


def _core_dns(makers: Makers) -> Row:
    name = f"/skydns/example/wrong-{free_ports(1)[0]}"
    return _key(makers, f"{name}/", name, {"host": "10.0.0.7", "port": 8080})


def _seata(makers: Makers) -> Row:
    prefix = f"/registry-seata-{free_ports(1)[0]}-default"
    return _key(makers, prefix, f"{prefix}-10.0.0.7:8080", "10.0.0.7:8080")


def _file_host_name(makers: Makers) -> Row:
    target = f"localhost:{makers.port}"
    file = TargetFile(makers.root / "host-names.json", target, "127.0.0.1:9")
    makers.files.append(file)
    line = f'target = "{target}"'
    table = file.table("# its own address")
    return Row(table, target, line, _mended(table, "# its own address", re.escape(line)))


def _file_targets(makers: Makers) -> Row:
    target = f"127.0.0.1:{makers.port}"
    file = TargetFile(makers.root / "odd-key.json", target, key="Targets")
    makers.files.append(file)

    def fix(text: str) -> str:
        file.write(target)
        return file.table()

    return Row(file.table(), target, "below 'Targets', which is not read: write targets", fix)


def _nginx(wrong: str, line: str) -> Callable[[Makers], Row]:
    def make(makers: Makers) -> Row:
        server = makers.nginx.nginx
        test, reload = server.command("-t", "-q"), server.command("-s", "reload")
        right = line.format(port=makers.port)
        table = (
            f"kind = 'nginx'\nconfig = '{server.conf}'\n{wrong}\n"
            f"test = {json.dumps(test)}\nreload = {json.dumps(reload)}\n"
        )
        first = wrong.partition("\n")[0]
        fix = _mended(table, first, re.escape(right))
        return Row(table, f"127.0.0.1:{makers.port}", right, fix)

    return make


def _http(makers: Makers) -> Row:
    url = makers.stack.enter_context(serving(makers.nacos))
    table = f"kind = 'http'\npreset = 'nacos'\nurl = '{url}/nacos'\n# no variables"
    line = 'variables = { address = "10.0.0.9" }'
    return Row(table, "/ip 10.0.0.9", line, _mended(table, "# no variables", re.escape(line)))


def _agent(makers: Makers) -> Row:
    wrong, line = 'remote = "orders-00"', 'remote = "orders-0"'
    table = f"kind = 'agent'\nurl = '{makers.far[1]}'\n{wrong}"
    alike = f"orders-0 at 127.0.0.1:{makers.port}"
    return Row(table, alike, line, _mended(table, wrong, f"{line}(?!0)"))


def _third_party(makers: Makers) -> Row:
    """Return one that can only say whether it lists the instance: the app has to be put in."""
    table = f"kind = 't_list'\npath = '{makers.names}'"

    def fix(text: str) -> str:
        makers.names.write_text("orders-2\nthird-party\n")
        return table

    return Row(table, "nothing there looks like it", "or register the app", fix)


GRPC = {"address": "10.0.0.7:9090", "httpAddress": "10.0.0.7:8080"}
ROWS: dict[str, Callable[[Makers], Row]] = {
    "consul-service": _consul_service,
    "consul-spring": _consul_spring,
    "etcd-rpcx": _etcd("tcp@10.0.0.7:8972", "", 8972),
    "etcd-name-in-key": _etcd("orders-10.0.0.7:8080", "{}"),
    "etcd-underscore": _etcd("10.0.0.7_8080", "up"),
    "etcd-addr": _etcd("1", "addr=10.0.0.7:8080"),
    "etcd-path": _etcd("1", {"address": "10.0.0.7:8080/api"}),
    "etcd-commas": _etcd("1", "10.0.0.6:8080,10.0.0.7:8080"),
    "etcd-other-port": _etcd("1", GRPC),
    "etcd-core-dns": _core_dns,
    "etcd-seata": _seata,
    "file-host-name": _file_host_name,
    "file-targets": _file_targets,
    "nginx-server": _nginx(
        'server = "127.0.0.9:9"\nupstream = "app"', 'server = "127.0.0.1:{port}"'
    ),
    "nginx-upstream": _nginx('upstream = "metrics"', 'upstream = "app"'),
    "http-others": _http,
    "agent-name": _agent,
    "third-party": _third_party,
}
