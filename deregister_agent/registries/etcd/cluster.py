"""
An etcd cluster, reached through its JSON gateway: at any endpoint, logged in, with an end.

Paths and headers are from etcd's "gRPC gateway" and "Authentication" pages; the errors
were seen in runs against etcd 3.3, 3.4 and 3.5. A gateway answers with the HTTP status
of the gRPC code, and with a message that begins with "etcdserver:".
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from deregister_agent.config.options import Secret
from deregister_agent.errors import AgentError, excerpt, hide_secret
from deregister_agent.net.fetcher import Answer, Fetcher, FetchError
from deregister_agent.net.stream import Stream

PREFIXES = ("/v3", "/v3beta", "/v3alpha")
"""Where the gateway is: since etcd 3.4, in 3.3, before."""
GATEWAY_OFF = (
    "it has no JSON gateway: start etcd with enable-grpc-gateway (etcd 3.4 with --config-file "
    "switches it off unless the file says 'enable-grpc-gateway: true')"
)
ADVICE = {
    "user name is empty": "set user and password",
    "invalid user ID or password": "correct user or password",
    "permission denied": "its user needs a role that may read and write the keys",
    "CommonName of client": "the gateway takes no client certificate that has a common name "
    "while authentication is on: use a certificate without one, and user and password",
}
STALE_LOGIN = ("invalid auth token", "user name is empty", "auth store is old")
_NOT_FOUND = 404
_OK = 200
_ELSEWHERE = frozenset({408, 429, 500, 502, 503, 504})
"""Another endpoint may do better: cancelled, overloaded, no leader, too slow."""

_TRY_ANOTHER = frozenset({1, 2, 4, 8, 10, 13, 14})
"""The same as gRPC codes: a stream that has begun has no other."""

T = TypeVar("T")


class EtcdError(AgentError):
    """etcd has answered, and the answer is no. ``said`` is its own message."""

    def __init__(self, said: str) -> None:
        advice = next((f" ({do})" for part, do in ADVICE.items() if part in said), "")
        super().__init__(f"etcd answered: {said}{advice}")
        self.said = said

    @property
    def stale_login(self) -> bool:
        """Whether logging in (again) may help: simple tokens last five minutes."""
        return any(part in self.said for part in STALE_LOGIN)

    @property
    def no_right(self) -> bool:
        """Whether the user may not read or write the keys."""
        return "permission denied" in self.said


class EndpointUnavailable(AgentError):  # noqa: N818 - the fact
    """The endpoint cannot serve now; another one may."""


@dataclass(frozen=True, slots=True)
class EtcdLogin:
    """The user that the agent is to etcd."""

    user: str
    password: Secret


class Endpoint:
    """One member of the cluster, or a proxy to one."""

    def __init__(self, url: str, fetcher: Fetcher) -> None:
        self.url = url
        self._fetcher = fetcher
        self._prefix = PREFIXES[0]

    def call(self, path: str, payload: object, token: str, limit: float) -> Any:
        """
        Return the answer, read as JSON.

        Raises FetchError or EndpointUnavailable if another endpoint may do better, and EtcdError.
        """
        end = time.monotonic() + limit
        for prefix in (self._prefix, *(each for each in PREFIXES if each != self._prefix)):
            answer = self._fetcher.call(
                "POST",
                prefix + path,
                payload=payload,
                headers=_authorization(token),
                timeout=left_until(end),
            )
            if not _no_such_path(answer):
                self._prefix = prefix
                return self._read(answer)
        raise EndpointUnavailable(f"{self.url}: {GATEWAY_OFF}")

    def stream(
        self, path: str, payload: object, token: str, limit: float
    ) -> AbstractContextManager[Stream]:
        """Open a stream of messages, each a line of JSON; *limit* is for its beginning."""
        # A member without a leader then says so, and is not just silent.
        headers = {"Grpc-Metadata-hasleader": "true", **_authorization(token)}
        return self._fetcher.stream(
            "POST", self._prefix + path, payload=payload, headers=headers, timeout=limit
        )

    def read(self, stream: Stream, limit: float) -> Any:
        """Return the next message of a stream. Raises as call() does, also at the stream's end."""
        line = stream.line(limit)
        if line is None:
            raise EndpointUnavailable(f"{self.url}: it has ended the watch")
        answer = Answer(stream.status, {}, line)
        if _no_such_path(answer):
            raise EndpointUnavailable(f"{self.url}: {GATEWAY_OFF}")
        message = answer.json()
        if stream.status == _OK and "result" in message:
            return message["result"]
        error = message.get("error", message)
        if not isinstance(error, Mapping):  # etcd 3.4: the text itself, beside the same message
            error = message
        code = error.get("grpc_code", error.get("code"))
        status = 503 if code in _TRY_ANOTHER else stream.status  # 200 has been sent by then
        raise self._refusal(status, str(error["message"]))

    def _read(self, answer: Answer) -> Any:
        if answer.status == _OK:
            return answer.json()
        try:
            said = str(answer.json()["message"])
        except (FetchError, KeyError, TypeError):
            said = f"{answer.status} {excerpt(answer.text, 200)}"
        raise self._refusal(answer.status, said)

    def _refusal(self, status: int, said: str) -> AgentError:
        if status in _ELSEWHERE:
            return EndpointUnavailable(f"{self.url} answered: {said}")
        return EtcdError(said)


class Cluster:
    """
    An etcd cluster. Any thread may use it.

    A cluster remembers which endpoint answered last and the token of the login; both only
    save time.
    """

    def __init__(self, endpoints: Sequence[Endpoint], login: EtcdLogin | None) -> None:
        self._endpoints, self._login = endpoints, login
        self._first = 0
        self._token = ""

    def anywhere(self, end: float, ask: Callable[[Endpoint, str, float], T]) -> T:
        """
        Return what *ask* returns for an endpoint, a token and a limit in seconds.

        The endpoints are asked in turn, first the one that answered last, each with its share
        of the time until *end*, while *ask* raises FetchError or EndpointUnavailable. So a
        request may have been done more than once. Raises AgentError if no endpoint answers.
        """
        troubles = []
        for number, limit in self._order(end):
            try:
                done = self._logged_in(self._endpoints[number], limit, ask)
            except (FetchError, EndpointUnavailable) as e:
                troubles.append(str(e))
            else:
                self._first = number
                return done
        raise AgentError("; ".join(dict.fromkeys(troubles)))

    def _order(self, end: float) -> Iterator[tuple[int, float]]:
        first, count = self._first, len(self._endpoints)
        for tried in range(count):
            yield (first + tried) % count, left_until(end) / (count - tried)

    def _logged_in(
        self, endpoint: Endpoint, limit: float, ask: Callable[[Endpoint, str, float], T]
    ) -> T:
        """Ask with the token at hand; log in if there is none, or it does not hold."""
        end = time.monotonic() + limit
        if self._login is not None and not self._token:
            self._log_in(self._login, endpoint, limit)
        try:
            return ask(endpoint, self._token, left_until(end))
        except EtcdError as e:
            if self._login is None or not e.stale_login:
                raise
            self._log_in(self._login, endpoint, left_until(end))
        return ask(endpoint, self._token, left_until(end))

    def _log_in(self, login: EtcdLogin, endpoint: Endpoint, limit: float) -> None:
        who = {"name": login.user, "password": login.password.read()}
        try:
            self._token = endpoint.call("/auth/authenticate", who, "", limit)["token"]
        except EtcdError as e:
            if "authentication is not enabled" not in e.said:
                raise
            self._token = ""  # etcd 3.4 refuses an old token even then
        hide_secret(self._token)


def left_until(end: float) -> float:
    """Return the seconds until *end*, of time.monotonic(), never quite none."""
    return max(end - time.monotonic(), 0.001)


def _no_such_path(answer: Answer) -> bool:
    """Whether a 404 means the path, and not a lease."""
    return answer.status == _NOT_FOUND and "etcdserver:" not in answer.text


def _authorization(token: str) -> Mapping[str, str]:
    return {"Authorization": token} if token else {}
