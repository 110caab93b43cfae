"""How a probe reaches a server by HTTP: the keys for it, and a page asked for as it is now."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from pydantic import AfterValidator

from deregister_agent.config.options import ClientTlsOptions, Secret, Timeout
from deregister_agent.errors import ConfigError
from deregister_agent.net.fetcher import Answer, Fetcher, FetchError
from deregister_agent.probes.counting import Doubt

OK = 200
BODY_LIMIT = 8_388_608
Headers = Callable[[], Mapping[str, str]]

_AS_IT_IS_NOW = {"Cache-Control": "no-cache"}


def _url(value: str) -> str:
    if "@" in urlsplit(value).netloc:
        raise ValueError("must not hold a user name or a password: there are other keys for them")
    return value


Url = Annotated[str, AfterValidator(_url)]


class Trusting(ClientTlsOptions):
    """The keys of a probe that may ask a server by TLS."""

    timeout: Timeout = 2.0
    """The limit of one read, in seconds."""


class Served(Trusting):
    """The keys of a probe that asks a server by HTTP."""

    url: Url
    """Where: ``http://``, ``https://`` or ``http+unix://%2Frun%2Fapp.sock/path``."""


def bearer(token: Secret | None) -> Headers | None:
    """Return what sends *token* as ``Authorization``, read anew at each call."""
    return None if token is None else lambda: {"Authorization": f"Bearer {token.read()}"}


def reached(
    options: Served,
    headers: Headers | None = None,
    mistakes: Sequence[str] = (),
    *,
    base: str = "",
    body_limit: int = BODY_LIMIT,
) -> Fetcher:
    """
    Return what calls the server of *options*, below their URL or *base*. Asks nothing yet.

    Raises ConfigError with the *mistakes* that are known already, and that of the URL.
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


class Page:
    """The page that the URL of *options* names. Raises ConfigError as reached() does."""

    def __init__(
        self,
        options: Served,
        headers: Headers | None,
        mistakes: Sequence[str],
        *,
        body_limit: int = BODY_LIMIT,
    ) -> None:
        parts = urlsplit(options.url)
        server = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        self._fetcher = reached(options, headers, mistakes, base=server, body_limit=body_limit)
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
        Return the page as it is now, or was at most *lag* seconds ago.

        Raises Doubt unless its status is 200, or if it comes out of a cache, and FetchError.
        """
        answer = self._fetcher.call(
            "GET",
            self._target,
            params=[*self._params, *params],
            headers={"Accept": accept, **_AS_IT_IS_NOW},
            timeout=timeout,
        )
        if answer.status != OK:
            said = start_of(answer)
            raise Doubt(f"the app answered with status {answer.status}, not 200: {said}")
        age = answer.headers.get("Age")
        if age is not None and not (age.isdecimal() and int(age) + 1 <= lag):
            raise Doubt(f"the answer comes out of a cache, and is {age} s old: go round that cache")
        return answer


def start_of(answer: Answer) -> str:
    """Return the beginning of an answer, to recognise it by."""
    return repr(" ".join(answer.text[:240].split()))
