"""
Talk to a running agent over its HTTP API.

Standard library only: a deploy script may call ``deregister-agent status`` many
times a second, and what it imports is most of what that costs.
"""

import getpass
import http.client
import json
import os
import socket
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from deregister_agent.errors import AgentError

DEFAULT_URL = "http://127.0.0.1:8650"
DEFAULT_TOKEN_FILE = Path("/var/lib/deregister-agent/token")
TIMEOUT = 10.0
"""The limit of one call, in seconds, beyond what it asks the agent to wait."""
BODY_LIMIT = 16 * 1024 * 1024

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nothing is bound here


class Unreachable(AgentError):  # noqa: N818 - what is known, and no more
    """No agent answers; what it does, or has done with the last request, is not known."""


class NobodyThere(Unreachable):
    """Nothing listens where the agent should: none runs."""


@dataclass(frozen=True, slots=True)
class AgentAddress:
    """Where the agent is, and what it is to be shown."""

    url: str = DEFAULT_URL
    token_file: Path | None = None
    must_read: bool = False  # the token file was named by a person, so it has to be there


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """What the agent said."""

    status: int
    body: dict[str, Any]

    @property
    def detail(self) -> str:
        """What is wrong, as the agent puts it."""
        return str(self.body.get("detail") or self.body.get("title") or f"HTTP {self.status}")


class AgentClient:
    """The API of one agent. Every call opens a connection of its own and has a limit."""

    def __init__(self, address: AgentAddress, timeout: float = TIMEOUT) -> None:
        self._address, self._timeout = address, timeout

    def get(self, path: str, wait: float | None = None, **params: int) -> AgentAnswer:
        """Ask. *wait*: for how many seconds the agent may hold the answer."""
        query: dict[str, float] = {**params} if wait is None else {**params, "wait": wait}
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path, wait or 0.0)

    def post(self, path: str, body: Mapping[str, object]) -> AgentAnswer:
        """Ask for a change."""
        return self._call("POST", path, 0.0, json.dumps(body).encode())

    def _call(
        self, method: str, target: str, wait: float, body: bytes | None = None
    ) -> AgentAnswer:
        headers = {"Accept": "application/json", "Connection": "close", **self._token()}
        headers["X-Asked-By"] = asker()
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = _connection(self._address.url, self._timeout + wait)
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return AgentAnswer(response.status, self._json(response))
        except (OSError, http.client.HTTPException) as e:
            why = getattr(e, "strerror", None) or str(e) or type(e).__name__
            nobody = isinstance(e, ConnectionRefusedError | FileNotFoundError)
            raise (NobodyThere if nobody else Unreachable)(
                f"no answer from the agent at {self._address.url}: {why}"
            ) from e
        finally:
            connection.close()

    def _json(self, response: http.client.HTTPResponse) -> dict[str, Any]:
        content = response.read(BODY_LIMIT)
        if response.length:  # read() with a limit does not say that the answer broke off
            raise http.client.IncompleteRead(content, response.length)
        try:
            body = json.loads(content)
        except ValueError as e:
            raise self._stranger(response.status) from e
        if not isinstance(body, dict):
            raise self._stranger(response.status)
        return body

    def _stranger(self, status: int) -> AgentError:
        said = f"HTTP {status} without a JSON object; see --url"
        if status >= 500:  # noqa: PLR2004 - 5xx: a proxy, while the agent is being restarted
            return Unreachable(f"no answer from the agent at {self._address.url}: {said}")
        return AgentError(f"what answers at {self._address.url} is not this agent: {said}")

    def _token(self) -> dict[str, str]:
        source = self._address.token_file
        if source is None:
            return {}
        try:
            token = source.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            if self._address.must_read:
                raise AgentError(f"cannot read the token file {source}: {e}") from e
            return {}  # the agent may do without, on a Unix socket; if not, it says 401
        if not token.isprintable() or " " in token:  # it must not be shown, as http.client would
            raise AgentError(f"the token file {source} holds more than a token; see --token-file")
        return {"Authorization": f"Bearer {token}"} if token else {}


def asker() -> str:
    """Return who asks, for the history: the user of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name; OSError from Python 3.13 on
        user = str(os.getuid())
    return user if user.isascii() and user.isprintable() else str(os.getuid())


def path_of(name: str, *more: str) -> str:
    """Return the path of what the API keeps about the instance *name*."""
    return "/".join(["/v1/instances", quote(name, safe=""), *more])


def address(
    config: Path, url: str | None, token_file: Path | None, *, must_exist: bool = False
) -> AgentAddress:
    """
    Tell where the agent is: as asked, else as the configuration says, else the default.

    Raises AgentError where the configuration is needed, *must_exist* and does not: the
    agent where it usually is may be another one.

    The configuration is only parsed, not validated, and need not be readable: an
    operator who may talk to the agent need not be one who may read its secrets.
    """
    if must_exist and url is None and is_absent(config):
        raise AgentError(f"there is no configuration {config}; see --config, or give --url")
    server = _server_table(config)
    named = token_file or _path(server.get("token_file"))
    return AgentAddress(
        url=url or _url_of(server),
        token_file=named or DEFAULT_TOKEN_FILE,
        must_read=token_file is not None,
    )


def is_absent(path: Path) -> bool:
    """Tell whether there is certainly no such file."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # it may be there, for others
        return False
    return False


def _server_table(config: Path) -> Mapping[str, Any]:
    try:
        server = tomllib.loads(config.read_text(encoding="utf-8")).get("server")
    except (OSError, ValueError):
        return {}
    return server if isinstance(server, dict) else {}


def _path(value: object) -> Path | None:
    return Path(value) if isinstance(value, str) else None


def _url_of(server: Mapping[str, Any]) -> str:
    """
    Turn the first entry of ``listen`` into a URL.

    Where TLS asks for client certificates, a Unix socket is the way for commands
    of the same host, if there is one.
    """
    found = server.get("listen")
    listen = [one for one in found if isinstance(one, str)] if isinstance(found, list) else []
    if "tls" in server:
        listen.sort(key=lambda one: not one.startswith("unix:"))
    if not listen or listen[0].startswith("unix:"):
        return listen[0] if listen else DEFAULT_URL
    host, _, port = listen[0].rpartition(":")
    host = _LOOPBACK.get(host, host)
    return f"{'https' if 'tls' in server else 'http'}://{host}:{port}"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket; the Host header is localhost."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection(url: str, timeout: float) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:").removeprefix("//"), timeout)
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise AgentError(f"--url {url!r} is no URL: {e}") from e
    if not host or parts.scheme not in {"http", "https"} or parts.path.strip("/"):
        raise AgentError(
            f"--url {url!r} must look like {DEFAULT_URL} or unix:/run/deregister-agent.sock"
        )
    if parts.scheme == "https":
        trust = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port or 443, timeout=timeout, context=trust)
    return http.client.HTTPConnection(host, port or 80, timeout=timeout)
