"""The page that the agent asks, ``/-/work``: its answers, for every kind of server."""

import hmac
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qs

LONGEST_WAIT = 60.0  # seconds that ?wait= may hold a request
IMPATIENT = 1.0  # seconds that a POST is held where requests may wait behind it
POLL = 0.01  # seconds between two looks while a request is held

PageAnswer = tuple[int, list[tuple[str, str]], bytes]
"""Status, headers and body."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One request for the page."""

    method: str
    path: str
    query: str = ""
    authorization: str = ""
    origin: str = ""
    foreign_host: str = ""  # the Host header, where it is a name that was made to point here
    own_port: bool = False  # it came in on the port that serves nothing else
    many: bool = False  # the server says that other processes serve the same app
    patient: bool = True  # the request may be held, and no other waits behind it


class Source(Protocol):
    """What the page tells of: Work, in other words."""

    def report(self, *, many: bool) -> dict[str, object]:
        """Return what GET answers; raise UnknownWorkError when that cannot be known."""
        ...

    def is_idle(self) -> bool:
        """Tell whether nothing is in flight."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether the app was stopped, hooks and all."""
        ...

    def ask(self, *, stop: bool, hold: bool) -> None:
        """Ask every process to call its hooks; *hold*: connections stay until let_go()."""
        ...

    def let_go(self) -> bool:
        """Let connections go until the start; return whether the app is stopped."""
        ...

    def settled(self) -> bool:
        """Tell whether the hooks of every process have returned."""
        ...

    def trouble(self) -> str | None:
        """Say what is wrong with the hooks, if anything is."""
        ...


class UnknownWorkError(RuntimeError):
    """The work in hand cannot be known; unknown work is never taken for none."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on its way: held until ``over`` or ``hold`` seconds, then answered."""

    hold: float
    over: Callable[[], bool]
    answer: Callable[[], PageAnswer]


class WorkPage:
    """The rules of the page: who may ask what, and for how long."""

    def __init__(
        self,
        work: Source,
        path: str,
        *,
        token: str | None,
        ignored: Collection[str],
        hook_timeout: float,
    ) -> None:
        if not path.startswith("/") or path.endswith("/"):
            raise ValueError(
                f"path must be like /-/work, not {path!r}: all below it is this page's"
            )
        self._work, self._path, self._token = work, path, token
        self._hook_timeout = hook_timeout
        self.ignored = frozenset(ignored)

    def has(self, path: str) -> bool:
        """Tell whether a request for *path* is for this page, and no work of the app."""
        return path == self._path or path.startswith(self._path + "/")

    def exchange(self, asked: PageRequest) -> Exchange:
        """Take a request. Raises nothing: a bad request gets an answer too."""
        refused = self._refused(asked)
        if refused is not None:
            return _at_once(refused)
        if asked.path == f"{self._path}/let-go":
            return _at_once(self._let_go(asked))
        if asked.method == "POST":
            later = parse_qs(asked.query, keep_blank_values=True).get("let_go")
            if later not in (None, ["later"]):
                return _at_once(_error(400, "let_go may be: later; leave it out to let go now"))
            self._work.ask(stop=asked.path == f"{self._path}/stop", hold=later is not None)
            hold = self._hook_timeout if asked.patient else min(self._hook_timeout, IMPATIENT)
            return Exchange(hold, self._work.settled, lambda: self._hooks_done(asked, hold))
        wait = _seconds(asked.query)
        if wait is None:
            return _at_once(_error(400, f"wait is a number of seconds, 0 to {LONGEST_WAIT:g}"))
        hold = wait if asked.patient else 0.0
        return Exchange(hold, self._work.is_idle, lambda: self._report(asked))

    def _refused(self, asked: PageRequest) -> PageAnswer | None:
        posts = tuple(f"{self._path}/{word}" for word in ("stop", "let-go", "start"))
        if asked.path != self._path and asked.path not in posts:
            return _error(404, f"there is {self._path}, and POST {', '.join(posts)}")
        allowed = ("POST",) if asked.path in posts else ("GET", "HEAD")
        if asked.method not in allowed:
            return _error(405, f"use {allowed[0]} for {asked.path}", ("Allow", ", ".join(allowed)))
        if asked.origin:
            return _error(403, "this is not for web pages: requests with an Origin are refused")
        return self._not_allowed(asked)

    def _not_allowed(self, asked: PageRequest) -> PageAnswer | None:
        if self._token is not None:
            given = asked.authorization.removeprefix("Bearer ").encode("utf-8", "replace")
            if not hmac.compare_digest(given, self._token.encode()):
                return _error(401, "send the token of Work(token=...) as Authorization: Bearer")
        elif asked.foreign_host:
            return _error(403, f"ask by address or as localhost, not as {asked.foreign_host}")
        elif asked.method == "POST" and not asked.own_port:
            return _error(
                403,
                "whoever reaches this port could stop the app; make it Work(token=...), "
                "or ask on a port of its own: work.serve(port)",
            )
        return None

    def _let_go(self, asked: PageRequest) -> PageAnswer:
        if not self._work.let_go():
            return _error(409, "the app is not stopped: connections are let go only while it is")
        return self._report(asked)

    def _hooks_done(self, asked: PageRequest, hold: float) -> PageAnswer:
        if not self._work.settled():
            return _error(504, f"hooks have not returned in {hold:g} s; ask again")
        trouble = self._work.trouble()
        if trouble:
            return _error(500, trouble)
        if self._work.stopped != asked.path.endswith("/stop"):
            return _error(409, "meanwhile somebody asked for the opposite")
        return self._report(asked)

    def _report(self, asked: PageRequest) -> PageAnswer:
        try:
            return _json(200, self._work.report(many=asked.many))
        except UnknownWorkError as e:
            return _error(503, str(e))


def held(exchange: Exchange) -> PageAnswer:
    """Hold a request in this thread, then answer it."""
    hold(exchange.over, exchange.hold)
    return exchange.answer()


def hold(over: Callable[[], bool], timeout: float) -> bool:
    """Block until *over* is true, for at most *timeout* seconds; return whether it is."""
    end = time.monotonic() + timeout
    while not over():
        if time.monotonic() >= end:
            return False
        time.sleep(POLL)
    return True


def _seconds(query: str) -> float | None:
    text = parse_qs(query, keep_blank_values=True).get("wait", ["0"])[-1]
    try:
        seconds = float(text)
    except ValueError:
        return None
    return min(seconds, LONGEST_WAIT) if seconds >= 0 else None


def _at_once(answer: PageAnswer) -> Exchange:
    return Exchange(0.0, lambda: True, lambda: answer)


def _error(status: int, sentence: str, *headers: tuple[str, str]) -> PageAnswer:
    return _json(status, {"error": sentence}, *headers)


def _json(status: int, value: dict[str, object], *headers: tuple[str, str]) -> PageAnswer:
    body = json.dumps(value).encode()
    plain = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return status, [*plain, *headers], body
