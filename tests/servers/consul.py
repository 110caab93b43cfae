"""Real Consul: a server, with ACLs or without, and client agents joined to it."""

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl
from uuid import uuid4

from consul.exceptions import ConsulException
from consul.std import Consul as Client
from requests import RequestException

from deregister_agent.demo.stage import free_ports
from tests.servers import find
from tests.servers.child import Child, wait_until

REGISTERED_AS = {
    "ID": "service_id",
    "Name": "name",
    "Address": "address",
    "Port": "port",
    "Tags": "tags",
    "Meta": "meta",
    "Weights": "weights",
    "EnableTagOverride": "enable_tag_override",
    "TaggedAddresses": "tagged_addresses",
    "Check": "check",
    "Connect": "connect",
}
"""What py-consul calls the parts of a definition."""
_NUMBERS = count(1)  # a node's name is not used again: the servers remember whose it was


class Consul(Child):
    """
    One running Consul agent. Made by consul() and by joined().

    ``url`` is its HTTP address, ``node`` its node's name, ``token`` the one that may do
    everything (empty without ACLs), ``client`` what apps and operators speak to it with:
    py-consul, so that no client of ours proves itself.
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
        self.client = Client("127.0.0.1", self.ports["http"], connections_timeout=10.0)
        self.client.http.session.trust_env = False  # else local calls go to HTTP_PROXY

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

    def ok(self, method: str, target: str, payload: object = None) -> Any:
        """
        Call what py-consul has no call for, or one that cannot be believed.

        Fail unless Consul says 200; return the JSON of the answer, if any.
        """
        path, _, query = target.partition("?")
        send = {"GET": self.client.http.get, "PUT": self.client.http.put}[method]
        data = {"data": json.dumps(payload)} if payload is not None else {}
        answer = send(
            lambda response: response,
            path,
            params=parse_qsl(query, keep_blank_values=True),
            headers=self.client.prepare_headers(),
            **data,
        )
        assert answer.code == 200, f"{method} {target}: {answer.code} {answer.body}"
        return json.loads(answer.body) if answer.body.strip() else None

    def program(self, *arguments: str) -> str:
        """Run Consul's own program, as an operator would, and return what it prints."""
        environment = {"CONSUL_HTTP_ADDR": self.url, "CONSUL_HTTP_TOKEN": self.token}
        done = subprocess.run(
            [*find("consul"), *arguments],
            env=os.environ | {k: v for k, v in environment.items() if v},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"consul {arguments}: {done.stdout} {done.stderr}"
        return done.stdout

    def entries(self, service: str) -> list[dict[str, Any]]:
        """
        Return all instances of *service*, healthy or not, as the leader knows them now.

        Not by py-consul's health.service(): a read of its own need not be consistent.
        """
        found: list[dict[str, Any]] = self.ok("GET", f"/v1/health/service/{service}?consistent")
        return found

    def wait_for_check(self, service: str, check: str) -> None:
        """Wait until an instance of *service* has a check in the catalog."""
        wait_until(
            lambda: any(c["CheckID"] == check for e in self.entries(service) for c in e["Checks"]),
            f"the catalog has {check}",
        )

    def register(self, definition: dict[str, Any], *, token: str | None = None) -> None:
        """Register a service with this agent, as its app would, and wait for the catalog."""
        self.register_only(definition, token=token)
        service, name = definition.get("ID", definition["Name"]), definition["Name"]
        wait_until(
            lambda: any(e["Service"]["ID"] == service for e in self.entries(name)),
            f"the catalog has {service}",
        )

    def register_only(self, definition: dict[str, Any], *, token: str | None = None) -> None:
        """Register a service with this agent, as its app would."""
        given = {REGISTERED_AS[name]: value for name, value in definition.items()}
        assert self.client.agent.service.register(**given, token=token)

    def deregister(self, service: str) -> None:
        """Take a service out, as its owner would, if it is there."""
        with suppress(ConsulException):  # 500 in Consul 1.8, where it is not there
            self.client.agent.service.deregister(service)
        assert service not in self.client.agent.services()

    def new_token(self, rules: str) -> str:
        """Make a token that may do what *rules* say, and return it."""
        # py-consul's acl.policy.create() makes a JSON text of rules, which spoils HCL.
        policy = self.ok("PUT", "/v1/acl/policy", {"Name": f"test-{uuid4().hex}", "Rules": rules})
        return str(self.client.acl.token.create(policies_id=[policy["ID"]])["SecretID"])

    def delete_token(self, secret: str) -> None:
        """Take a token back."""
        self.client.acl.token.delete(self.client.acl.token.read_self(token=secret)["AccessorID"])

    @contextmanager
    def joined(self, name: str = "client", *, own_token: bool = True) -> Iterator["Consul"]:
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
            agent.token = agent.client.token = self.token
            agent.wait_ready(agent.has_leader)
            if own_token:
                agent.wait_ready(agent.is_known)
            yield agent

    def has_leader(self) -> bool:
        """Whether there is a leader, and a read that needs it works."""
        with suppress(ConsulException, RequestException):
            return bool(self.client.status.leader()) and bool(
                self.client.catalog.nodes(consistency="consistent")
            )
        return False

    def is_known(self) -> bool:
        """Whether the catalog has this agent's own node, alive."""
        with suppress(ConsulException, RequestException):
            _, checks = self.client.health.node(self.node)
            return any(c["Status"] == "passing" for c in checks)
        return False

    def bootstrap(self) -> bool:
        """Ask for the token that may do everything, and let the agent itself use it."""
        with suppress(ConsulException, RequestException):
            self.token = self.client.token = self.client.acl.bootstrap()["SecretID"]
            return bool(self.client.agent.token.set_agent(self.token))
        return False

    def close(self) -> None:
        """End it, and the connections to it."""
        super().close()
        self.client.http.session.close()


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

    Use service names of your own, and do not stop it: for that there is joined().
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
