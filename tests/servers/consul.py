"""Real Consul: a server, with ACLs or without, and client agents joined to it."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from deregister_agent.net.fetcher import Answer, Fetcher, FetchError
from tests.servers import find
from tests.servers.child import Child, free_ports, wait_until

_NUMBERS = count(1)  # a node's name is not used again: the servers remember whose it was


class Consul(Child):
    """
    One running Consul agent. Made by consul() and by its own client().

    ``url`` is its HTTP address, ``node`` its node's name, ``token`` the one that may do
    everything (empty without ACLs).
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        names = ("http", "serf_lan", "server")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.ports['http']}"
        self.token = ""
        self.node: str = settings["node_name"]
        self.services = folder / "services"
        self.services.mkdir(parents=True)
        (folder / "consul.json").write_text(json.dumps(self._settings() | settings))
        arguments = ["agent", "-config-file", "consul.json", "-config-dir", "services"]
        super().__init__([*find("consul"), *arguments], folder / "log", folder=folder)

    def _settings(self) -> dict[str, Any]:
        off = {"dns": -1, "grpc": -1, "https": -1, "serf_wan": -1}
        return {
            "data_dir": str(self.folder / "data"),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": off | self.ports,
            "performance": {"raft_multiplier": 1},
            "leave_on_terminate": False,
            "disable_update_check": True,
            "check_update_interval": "0s",
        }

    def call(
        self, method: str, target: str, payload: object = None, *, token: str | None = None
    ) -> Answer:
        """Call its API, with its own token unless told otherwise."""
        headers = {"X-Consul-Token": self.token if token is None else token}
        return Fetcher(self.url, timeout=10.0).call(
            method, target, payload=payload, headers={k: v for k, v in headers.items() if v}
        )

    def ok(
        self, method: str, target: str, payload: object = None, *, token: str | None = None
    ) -> Any:
        """Call its API, fail unless it says 200, and return the JSON it answers with, if any."""
        answer = self.call(method, target, payload, token=token)
        assert answer.status == 200, f"{method} {target}: {answer.status} {answer.text}"
        return answer.json() if answer.body.strip() else None

    def entries(self, service: str) -> list[dict[str, Any]]:
        """Return all instances of *service*, healthy or not, as the leader knows them now."""
        found: list[dict[str, Any]] = self.ok("GET", f"/v1/health/service/{service}?consistent")
        return found

    def register(self, definition: dict[str, Any], *, token: str | None = None) -> None:
        """Register a service with this agent and wait until the catalog has it."""
        self.ok("PUT", "/v1/agent/service/register", definition, token=token)
        service, name = definition.get("ID", definition["Name"]), definition["Name"]
        wait_until(
            lambda: any(e["Service"]["ID"] == service for e in self.entries(name)),
            f"the catalog has {service}",
        )

    def deregister(self, service: str) -> None:
        """Take a service out, as its owner would."""
        self.ok("PUT", f"/v1/agent/service/deregister/{quote(service, safe='')}")

    def new_token(self, rules: str) -> str:
        """Make a token that may do what *rules* say, and return it."""
        policy = self.ok(
            "PUT", "/v1/acl/policy", {"Name": f"test-{free_ports(1)[0]}", "Rules": rules}
        )
        made = self.ok("PUT", "/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})
        return str(made["SecretID"])

    def delete_token(self, secret: str) -> None:
        """Take a token back."""
        accessor = self.ok("GET", "/v1/acl/token/self", token=secret)["AccessorID"]
        self.ok("DELETE", f"/v1/acl/token/{accessor}")

    @contextmanager
    def client(self, name: str = "client", *, own_token: bool = True) -> Iterator["Consul"]:
        """Run a client agent joined to this one; with ACLs, *own_token* is its agent token."""
        settings: dict[str, Any] = {
            "server": False,
            "node_name": f"{name}-{next(_NUMBERS)}",
            "retry_join": [f"127.0.0.1:{self.ports['serf_lan']}"],
            "retry_interval": "500ms",
        }
        if self.token:
            settings["acl"] = _acl() | ({"tokens": {"agent": self.token}} if own_token else {})
        with _running(settings) as agent:
            agent.token = self.token
            agent.wait_ready(agent.has_leader)
            if own_token:
                agent.wait_ready(agent.is_known)
            yield agent

    def has_leader(self) -> bool:
        """Whether there is a leader, and a read that needs it works."""
        with suppress(FetchError):
            leader = self.call("GET", "/v1/status/leader").text.strip('" \n')
            return bool(leader) and self.call("GET", "/v1/catalog/nodes?consistent").status == 200
        return False

    def is_known(self) -> bool:
        """Whether the catalog has this agent's own node, alive."""
        with suppress(FetchError):
            checks = self.call("GET", f"/v1/health/node/{self.node}?consistent")
            return checks.status == 200 and any(c["Status"] == "passing" for c in checks.json())
        return False

    def bootstrap(self) -> bool:
        """Ask for the token that may do everything, and let the agent itself use it."""
        with suppress(FetchError):
            answer = self.call("PUT", "/v1/acl/bootstrap")
            if answer.status == 200:
                self.token = answer.json()["SecretID"]
                self.ok("PUT", "/v1/agent/token/agent", {"Token": self.token})
                return True
        return False


@contextmanager
def consul(*, acl: bool = False, **more: Any) -> Iterator[Consul]:
    """Run a Consul server, default-deny where *acl*, with *more* settings, until the block ends."""
    settings: dict[str, Any] = more | {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": f"server-{free_ports(1)[0]}",
    }
    if acl:
        settings["acl"] = _acl()
    with _running(settings) as server:
        if acl:
            server.wait_ready(server.bootstrap)
        server.wait_ready(server.has_leader)
        server.wait_ready(server.is_known)
        yield server


@cache
def shared(*, acl: bool = False) -> Consul:
    """
    Return a Consul server that all tests of this process share; it ends with the process.

    Use service names of your own, and do not stop it: for that there is client().
    """
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(consul(acl=acl))


def _acl() -> dict[str, Any]:
    return {
        "enabled": True,
        "default_policy": "deny",
        "down_policy": "deny",
        "token_ttl": "0s",
        "policy_ttl": "0s",
    }


@contextmanager
def _running(settings: dict[str, Any]) -> Iterator[Consul]:
    folder = Path(tempfile.mkdtemp(prefix="consul-"))
    try:
        with Consul(folder, **settings) as agent:
            yield agent
    finally:
        shutil.rmtree(folder, ignore_errors=True)
