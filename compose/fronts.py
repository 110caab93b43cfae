"""What sends the instances their work, as clients and deploy scripts use it: see compose."""

import base64
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from compose.configs import RPC_PORT, definition
from compose.places import (
    CONSUL,
    CONSULS,
    GATEWAY,
    GATEWAY_RPC,
    NAMES,
    REDIS,
    SERVICE,
    Place,
    joined,
)
from compose.register import put
from compose.tables import RPC_SERVICE, upstreams
from compose.traffic.targets import HTTP, QUEUE, RPC, Targets
from deregister_agent.net.fetcher import Fetcher, FetchError

LIMIT, NEXT = 10.0, 1.0  # seconds for an answer; where there are others to ask, for each
PAUSE = 0.1  # seconds between two looks


class Front(Protocol):
    """One way by which requests reach the instances."""

    def targets(self) -> Targets:
        """Return where a client sends its next request, for each door. Raises FetchError."""

    def out(self, name: str) -> None:
        """Take an instance out, as a deploy script does."""

    def back(self, name: str) -> None:
        """Put an instance back, as a deploy script or the app itself does."""


class Asked:
    """Servers that all know the same: the first that answers is asked first from then on."""

    def __init__(self, urls: Sequence[str]) -> None:
        limit = LIMIT if len(urls) == 1 else NEXT
        self._servers = [Fetcher(url, timeout=limit) for url in urls]

    def ask(self, method: str, path: str, question: object = None) -> Any:
        """Return the JSON that one of them answers with. Raises FetchError if none does."""
        why = ""
        for server in tuple(self._servers):
            try:
                answer = server.call(method, path, payload=question)
                if answer.status == HTTPStatus.OK:
                    return answer.json() if answer.body else None
                why = f"{answer.status} {answer.text}"
            except FetchError as e:
                why = str(e)
            self._servers.append(self._servers.pop(0))
        raise FetchError(f"{method} {path}: {why}")


class ByConsul:
    """
    Clients ask Consul for the instances that pass their check, once a second.

    The port for gRPC stands in the service's metadata, as gRPC clients of Consul look for it.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._servers = Asked([place.url(name, CONSUL) for name in CONSULS[: place.consuls]])

    def targets(self) -> Targets:
        """Return those that are listed and healthy."""
        entries = self._servers.ask("GET", f"/v1/health/service/{SERVICE}?passing")
        services = [entry["Service"] for entry in entries]
        return {
            HTTP: [f"{one['Address']}:{one['Port']}" for one in services],
            RPC: [f"{one['Address']}:{one['Meta'][RPC_PORT]}" for one in services],
        }

    def out(self, name: str) -> None:
        """Deregister it."""
        self._tell(name, f"deregister/{name}")

    def back(self, name: str) -> None:
        """Register it, and wait until it passes its check."""
        self._tell(name, "register", json.loads(definition(self._place, name))["service"])
        end = time.monotonic() + LIMIT
        while joined(self._place.app(name)) not in self.targets()[HTTP]:
            if time.monotonic() > end:
                raise TimeoutError(f"{name} does not pass its check")
            time.sleep(PAUSE)

    def _tell(self, name: str, what: str, wish: object = None) -> None:
        """Tell the Consul agent of that instance's host."""
        agent = Asked([f"http://{self._place.loopback(name)}:{CONSUL}"])
        agent.ask("PUT", f"/v1/agent/service/{what}", wish)


PREFIXES = {HTTP: f"{SERVICE}/", RPC: f"{RPC_SERVICE}/"}
"""What the keys of etcd begin with."""


class ByEtcd:
    """Clients read the keys below a prefix in etcd, once a second."""

    def __init__(self, place: Place) -> None:
        self._place, self._members = place, Asked(place.etcd)

    def targets(self) -> Targets:
        """Return the addresses that are there."""
        return {door: self._below(prefix) for door, prefix in PREFIXES.items()}

    def out(self, name: str) -> None:
        """Delete its keys."""
        for prefix in PREFIXES.values():
            self._members.ask("POST", "/v3/kv/deleterange", {"key": _encoded(f"{prefix}{name}")})

    def back(self, name: str) -> None:
        """Write its keys."""
        for door, place in ((HTTP, self._place.app), (RPC, self._place.rpc)):
            put(self._place.etcd[0], f"{PREFIXES[door]}{name}", joined(place(name)))

    def _below(self, prefix: str) -> Sequence[str]:
        span = {"key": _encoded(prefix), "range_end": _encoded(f"{prefix[:-1]}0")}  # 0 follows /
        answer = self._members.ask("POST", "/v3/kv/range", span)
        return [base64.b64decode(each["value"]).decode() for each in answer.get("kvs", ())]


class ByNginx:
    """Clients know only Nginx, which has an upstream for each door."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def targets(self) -> Targets:
        """Return Nginx's own addresses."""
        at = self._place.at("gateway")
        return {HTTP: [joined((at, GATEWAY))], RPC: [joined((at, GATEWAY_RPC))]}

    def out(self, name: str) -> None:
        """Mark it down at every door, and reload."""
        self._edit(name, ";", " down;")

    def back(self, name: str) -> None:
        """Take the marks away and reload."""
        self._edit(name, " down;", ";")

    def reload(self) -> None:
        """Ask for a reload, and do not look whether it is done."""
        pid = Path(self._place.file("/run/nginx/nginx.pid")).read_text()
        os.kill(int(pid), signal.SIGHUP)

    def _edit(self, name: str, old: str, new: str) -> None:
        for file, _ in upstreams(self._place, name).values():
            text = Path(file).read_text()
            Path(file).write_text(text.replace(old, new))
        self.reload()


class Fronts:
    """All fronts of a place, and others that stand there; each client goes by one of them."""

    def __init__(self, place: Place, *others: Front) -> None:
        kinds: dict[str, Callable[[Place], Front]]
        kinds = {"Consul": ByConsul, "etcd": ByEtcd, "Nginx": ByNginx}
        own = [kind(place) for part, kind in kinds.items() if part in place.parts]
        self.every: Sequence[Front] = [*own, *others]
        self._queue = joined((place.at("redis"), REDIS))

    def targets(self) -> Targets:
        """Return where the next request goes, and a message; each front gets about its share."""
        told = [front.targets() for front in self.every]
        shared = {door: _shared([targets[door] for targets in told]) for door in (HTTP, RPC)}
        return {**shared, QUEUE: [self._queue]}

    def list_all(self) -> bool:
        """Whether every instance is listed where instances are."""
        told = [one.targets() for one in self.every if isinstance(one, ByConsul | ByEtcd)]
        return {len(listed) for targets in told for listed in targets.values()} <= {len(NAMES)}

    def out(self, name: str) -> None:
        """Take it out of all."""
        for front in self.every:
            front.out(name)

    def back(self, name: str) -> None:
        """Put it back into all."""
        for front in self.every:
            front.back(name)


def _shared(lists: Sequence[Sequence[str]]) -> Sequence[str]:
    """Return all lists as one, the short ones repeated."""
    most = max(map(len, lists), default=0)
    return list(chain(*(list(one) * (most // max(1, len(one))) for one in lists)))


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
