"""How a probe reaches a server by HTTP: the keys, and a page in its present form."""

from collections.abc import Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import AfterValidator

from deregister_agent.config.options import ClientTlsOptions, Secret, Timeout
from deregister_agent.errors import ConfigError, excerpt
from deregister_agent.net.fetcher import Answer, Fetcher, FetchError
from deregister_agent.probes.counting import Unclear, WorkCount, WorkKind

BODY_LIMIT = 8_388_608  # bytes
RequestHeaders = Callable[[], Mapping[str, str]]

_NOT_CACHED = {"Cache-Control": "no-cache"}


def _url(value: str) -> str:
    if "@" in urlsplit(value).netloc:
        raise ValueError("must not hold a user name or a password: there are other keys for them")
    return value


Url = Annotated[str, AfterValidator(_url)]


class TlsProbeOptions(ClientTlsOptions):
    """The keys of a probe that may ask a server by TLS."""

    timeout: Timeout = 2.0
    """The limit of one read, in seconds."""


class HttpProbeOptions(TlsProbeOptions):
    """The keys of a probe that asks a server by HTTP."""

    url: Url
    """Where: ``http://``, ``https://`` or ``http+unix://%2Frun%2Fapp.sock/path``."""


class CountsPageOptions(HttpProbeOptions):
    """The keys of a probe that reads counts from a page of the app."""

    baseline: Mapping[WorkKind, WorkCount] = {}
    """What each kind's count shows when the app is idle, because the probe's own request counts;
    that is subtracted. A count below the baseline is an error: then the baseline is wrong."""
    own_starts: WorkCount = 0
    """How much each read of this probe adds to ``started``; that is subtracted."""
    token: Secret | None = None
    """A bearer token, sent as ``Authorization``."""

    def contradictions(self, kinds: Collection[str], *, started: bool) -> list[str]:
        """Return the mistakes between these keys, for a page that counts *kinds*."""
        stray = sorted(self.baseline.keys() - set(kinds))
        found = [f"baseline.{kind}: there is no such kind in in_flight" for kind in stray]
        if self.own_starts and not started:
            found.append("own_starts: says nothing without started")
        return found


def bearer_headers(token: Secret | None) -> RequestHeaders | None:
    """Return a function that reads *token* at each call, for the header ``Authorization``."""
    return None if token is None else lambda: {"Authorization": f"Bearer {token.read()}"}


def open_fetcher(
    options: HttpProbeOptions,
    headers: RequestHeaders | None = None,
    mistakes: Sequence[str] = (),
    *,
    base: str = "",
    body_limit: int = BODY_LIMIT,
) -> Fetcher:
    """
    Return a client for the server of *options*, below their URL or *base*. Asks nothing yet.

    Raises ConfigError with the *mistakes* found before, and that in the URL.
    """
    found = list(mistakes)
    try:
        fetcher = Fetcher(
            base or options.url,
            timeout=options.timeout,
            headers=headers,
            tls_files=options.tls_files,
            body_limit=body_limit,
        )
    except FetchError as e:
        found.append(f"url: {e}")
    if found:
        raise ConfigError(f"probe {options.label}", found)
    return fetcher


class PolledPage:
    """The page at the URL of *options*. Raises ConfigError as open_fetcher() does."""

    def __init__(
        self,
        options: HttpProbeOptions,
        headers: RequestHeaders | None,
        mistakes: Sequence[str],
        *,
        body_limit: int = BODY_LIMIT,
    ) -> None:
        parts = urlsplit(options.url)
        server = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        self._fetcher = open_fetcher(options, headers, mistakes, base=server, body_limit=body_limit)
        self._target = parts.path or "/"
        self._params = parse_qsl(parts.query, keep_blank_values=True)

    def get(
        self,
        timeout: float,
        *,
        params: Sequence[tuple[str, str]] = (),
        accept: str = "*/*",
        lag: float = 0.0,
    ) -> Answer:
        """
        Return the page as it is now, or was at most *lag* seconds ago. Raises FetchError.

        Raises Unclear unless the status is 200, or where an older page comes out of a cache.
        """
        answer = self._fetcher.call(
            "GET",
            self._target,
            params=[*self._params, *params],
            headers={"Accept": accept, **_NOT_CACHED},
            timeout=timeout,
        )
        must_be_ok(answer, "the app")
        age = answer.headers.get("Age")
        if age is not None and not (age.isdecimal() and int(age) + 1 <= lag):
            raise Unclear(
                f"the answer comes out of a cache, and is {age} s old: go round that cache"
            )
        return answer


def must_be_ok(answer: Answer, who: str) -> None:
    """Raise Unclear unless the status of what *who* answered is 200."""
    if answer.status != HTTPStatus.OK:
        said = excerpt(answer.text, 240)
        raise Unclear(f"{who} answered with status {answer.status}, not 200: {said!r}")


def tells_its_length(answer: Answer) -> bool:
    """Whether an end of *answer* that came too early would have been noticed."""
    chunked = answer.headers.get("Transfer-Encoding", "").lower() == "chunked"
    return chunked or "Content-Length" in answer.headers


def media_type(answer: Answer) -> str:
    """Return the type of *answer* without its parameters, in small letters."""
    return answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def ok_json(answer: Answer, who: str) -> Any:
    """Return the JSON document that *who* answered. Raises Unclear or FetchError."""
    must_be_ok(answer, who)
    return answer.json()
