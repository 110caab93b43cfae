"""
Who may talk to the agent: Host, Origin and token.

A web page that the operator happens to visit can make the browser send requests
to loopback. It cannot forge Host (which names the page's own site under DNS
rebinding) or Origin, and it does not know the token.
"""

import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from deregister_agent.api.problem import Problem
from deregister_agent.errors import AgentError
from deregister_agent.host.files import read_plain

UNIX = "deregister_agent.unix"
"""Key of the WSGI environ: whether the request came by a Unix socket."""
WITHOUT_TOKEN = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
"""The paths that need no token: none shows a secret or changes anything."""


class Trust:
    """The rules for one agent. *token* is what every TCP listener asks for."""

    def __init__(self, token: str, allowed_hosts: Iterable[str] = ()) -> None:
        self._token = token.encode()
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    def check(self, environ: Mapping[str, Any]) -> None:
        """
        Raise Problem 403 or 401 unless the request may go on.

        Clients of the Unix socket need no token, as they could open it, and may name any host.
        """
        host = str(environ.get("HTTP_HOST", ""))
        local = bool(environ.get(UNIX))
        if not local and not self._knows(host_name(host), str(environ.get("SERVER_NAME", ""))):
            raise Problem(403, f"Host {host[:100]!r} is not this agent; see server.allowed_hosts")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin != f"{environ['wsgi.url_scheme']}://{host}":
            raise Problem(403, "requests from web pages of another origin are refused")
        if not local and environ["PATH_INFO"] not in WITHOUT_TOKEN:
            self._check_token(str(environ.get("HTTP_AUTHORIZATION", "")))

    def _knows(self, name: str, own_address: str) -> bool:
        return is_loopback(name) or name == own_address.lower() or name in self._allowed_hosts

    def _check_token(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        # Without a token nobody is let in by one.
        same = bool(self._token) and hmac.compare_digest(
            given.strip().encode("utf-8", "replace"), self._token
        )
        if scheme.lower() != "bearer" or not same:
            raise Problem(
                401,
                f"the bearer token is {'wrong' if given else 'missing'}: send the one in the file "
                "that server.token_file names, or use the Unix socket",
                headers={"WWW-Authenticate": 'Bearer realm="deregister-agent"'},
            )


def host_name(host: str) -> str:
    """Return the name in a Host header, without port, brackets and letter case."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Whether *name* can only mean this host."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def ensure_token(path: Path) -> str:
    """
    Return the token in *path*; make the file, mode 0600, if there is none.

    Raises AgentError, which never shows the token.
    """
    try:
        if not path.exists():
            _make_token(path)
    except OSError as e:
        raise AgentError(f"cannot make the token file {path}: {e}; see server.token_file") from e
    return read_token(path)


def read_token(path: Path) -> str:
    """Return the token in *path*. Raises AgentError where it cannot be used or is no secret."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        token = read_plain(path).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise AgentError(f"cannot read the token file {path}: {e}") from e
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise AgentError(
            f"the token file {path} has mode {mode:04o}, so the token is no secret: "
            "delete the file for a new token, or chmod 0600 it if nobody can have read it"
        )
    if not token:
        raise AgentError(f"the token file {path} is empty: delete it and a new one is made")
    if not token.isprintable() or " " in token:
        raise AgentError(
            f"the token file {path} holds more than a token: "
            "see server.token_file, or delete it and a new one is made"
        )
    return token


def _make_token(path: Path) -> None:
    """Make the token file whole or not at all: two starts at once must end with one token."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(fd)
        os.link(fresh, path)
    except FileExistsError:
        pass  # the other start was quicker; its token counts
    finally:
        fresh.unlink()
