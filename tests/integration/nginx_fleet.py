"""Many upstreams over the same two apps, in one Nginx: each with its own way to balance."""

import http.client
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from deregister_agent.demo.stage import free_ports
from deregister_agent.registries.nginx.registry import NginxUpstream
from tests.integration.nginx_stage import App
from tests.servers.nginx import Nginx

ASKED = 24
"""Requests for each upstream: of two servers that are chosen at random, both are met."""


class Fleet:
    """Nginx with one upstream for each text of *blocks*, each behind an address of its own."""

    def __init__(
        self,
        stack: ExitStack,
        version: str,
        folder: Path,
        blocks: Sequence[str],
        *,
        context: str = "http",
        load: str = "",
        more: str = "",
        asked: int = ASKED,
    ) -> None:
        self.a, self.b = App(), App()
        for app in (self.a, self.b):
            stack.callback(app.close)
        self.blocks, self.context, self.asked = list(blocks), context, asked
        self.port = free_ports(1)[0]
        self.cookies: dict[tuple[int, int], str] = {}
        text = more + "\n" + "\n".join(map(self._part, range(len(blocks))))
        http_text, main = (text, load) if context == "http" else ("", f"{load} stream {{ {text} }}")
        self.nginx = Nginx(version, folder, http_text, main=main)
        stack.enter_context(self.nginx)

    def _part(self, number: int) -> str:
        block = self.blocks[number].format(a=self.a.port, b=self.b.port, n=number)
        to = f"proxy_pass u{number};"
        if self.context == "http":
            to = f"location / {{ proxy_pass http://u{number}; }}"
        listen = f"listen {self._address(number)}:{self.port};"
        return f"upstream u{number} {{ {block} }} server {{ {listen} {to} }}"

    def _address(self, number: int) -> str:
        return f"127.77.0.{number + 1}"

    def registries(self, **options: object) -> list[NginxUpstream]:
        """Return the registry of app a for each upstream."""
        options = {"context": self.context, "gather": 0.5, "timeout": 60.0} | options
        return [
            self.nginx.registry(self.a.port, f"u{number}", **options)
            for number in range(len(self.blocks))
        ]

    def reached(self) -> Mapping[str, set[str]]:
        """Return for each upstream who has answered: a, b, or an error's status."""
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(self._asked, range(len(self.blocks)))
        return {
            f"{number} {block}": seen
            for number, (block, seen) in enumerate(zip(self.blocks, found, strict=True))
        }

    def _asked(self, number: int) -> set[str]:
        return {self._ask(number, request) for request in range(self.asked)}

    def _ask(self, number: int, request: int) -> str:
        """Ask from a network of its own, with the cookie that the same request once got."""
        source = (f"127.{request + 1}.0.1", 0)
        asking = http.client.HTTPConnection(
            self._address(number), self.port, timeout=30, source_address=source
        )
        with closing(asking):
            bound = "a" if request % 2 else "b"
            session = f"127.0.0.1:{self.a.port if request % 2 else self.b.port}"
            cookie = self.cookies.get((number, request), "")
            path = f"/{request}?route={bound}&session={session}"
            asking.request("GET", path, headers={"Cookie": cookie} if cookie else {})
            answer = asking.getresponse()
            if got := answer.headers.get("Set-Cookie"):
                self.cookies[number, request] = got.partition(";")[0]
            said = answer.read().decode()
        names = {str(self.a.port): "a", str(self.b.port): "b"}
        return names.get(said, str(answer.status))


def take_out_and_put_back(fleet: Fleet) -> None:
    """Take app a out of every upstream, where it then gets nothing, and put it back."""
    registries = fleet.registries()
    before = fleet.nginx.conf.read_bytes()
    snapshots = [registry.snapshot() for registry in registries]
    together([registry.withdraw for registry in registries])
    assert not any(registry.lists() for registry in registries)
    assert {block: seen for block, seen in fleet.reached().items() if seen != {"b"}} == {}
    restores = zip(registries, snapshots, strict=True)
    together([lambda one=one, was=was: one.restore(was) for one, was in restores])
    assert fleet.nginx.conf.read_bytes() == before


def together(calls: Sequence[object]) -> None:
    """Make all calls at once, so that they share reloads; raise what the first that fails does."""
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(call) for call in calls if callable(call)]:
            done.result()
