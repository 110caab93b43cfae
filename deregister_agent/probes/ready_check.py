"""Whether the app is ready to take traffic: an HTTP status or gRPC's health, several times over."""

from collections.abc import Callable
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from deregister_agent.config.options import Table, Timeout
from deregister_agent.errors import AgentError, ProbeError
from deregister_agent.net.fetcher import Fetcher, FetchError
from deregister_agent.ports import ReadyCheck
from deregister_agent.probes.extras import grpc_missing

HTTP = ("http", "https", "http+unix")
GRPC = ("grpc", "grpcs", "grpc+unix")
SERVING = "SERVING"


def _url(value: str) -> str:
    """Refuse, without the network, a URL that cannot be asked."""
    scheme = value.partition("://")[0]
    if scheme not in (*HTTP, *GRPC) or "://" not in value:
        known = ", ".join(f"{one}://" for one in (*HTTP, *GRPC))
        raise ValueError(f"must begin with one of {known}")
    try:
        if scheme in GRPC:
            _grpc_target(value)
        else:
            Fetcher(_http_parts(value)[0], timeout=1)
    except FetchError as e:
        raise ValueError(str(e)) from e
    return value


class ReadyOptions(Table):
    """One ``[[instance.ready]]`` table."""

    url: Annotated[str, AfterValidator(_url)]
    """An ``http://``, ``https://`` or ``http+unix://`` URL is asked with GET; redirects are not
    followed. Of ``grpc://HOST:PORT/SERVICE`` (or ``grpcs://``, ``grpc+unix://``) the health service
    must say that it is SERVING; without a service, the server as a whole."""
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """The HTTP status that means ready."""
    passes: Annotated[int, Field(ge=1)] = 1
    """How many times in a row the check must pass."""
    every: Annotated[float, Field(gt=0, le=60)] = 0.5
    """Seconds between two checks."""
    timeout: Timeout = 2.0
    """The limit of one check."""

    @model_validator(mode="after")
    def _status_of_http(self) -> Self:
        if urlsplit(self.url).scheme in GRPC and "status" in self.model_fields_set:
            raise ValueError("status: a gRPC health check has none; leave it out")
        return self


class UrlReadyCheck(ReadyCheck):
    """One readiness check of the app, by its HTTP status or its gRPC health service."""

    def __init__(self, options: ReadyOptions) -> None:
        grpc = urlsplit(options.url).scheme in GRPC
        self._objection = _grpc_check(options) if grpc else _http_check(options)
        self.name = options.url
        self.passes, self.every = options.passes, options.every

    def ask(self) -> None:
        """Check once. Returning means that the check passed; raises ProbeError otherwise."""
        try:
            objection = self._objection()
        except AgentError as e:
            raise ProbeError(self.name, "see whether the app is ready", e) from e
        if objection is not None:
            raise ProbeError(self.name, "call the app ready", objection)


def _http_check(options: ReadyOptions) -> Callable[[], str | None]:
    """Return a function that asks once, and returns what speaks against being ready."""
    base, target = _http_parts(options.url)
    fetcher = Fetcher(base, timeout=options.timeout)

    def objection() -> str | None:
        status = fetcher.call("GET", target).status
        return None if status == options.status else f"it answered {status}, not {options.status}"

    return objection


def _grpc_check(options: ReadyOptions) -> Callable[[], str | None]:
    """Return a function that asks the health service, and returns what speaks against readiness."""
    target, service = _grpc_target(options.url)
    tls = urlsplit(options.url).scheme == "grpcs"

    def objection() -> str | None:
        # Only here: gRPC is an extra, large, and few configurations need it.
        import grpc  # noqa: PLC0415

        from deregister_agent.net.grpc_client import GrpcConnection  # noqa: PLC0415

        credentials = grpc.ssl_channel_credentials() if tls else None
        with GrpcConnection(target, options.timeout, credentials) as connection:
            status = connection.health(service)
        return None if status == SERVING else f"its health service says {status}, not {SERVING}"

    return objection


def _http_parts(url: str) -> tuple[str, str]:
    """Return the server's URL, and the path and query as they stand."""
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return parts._replace(path="", query="").geturl(), f"{parts.path or '/'}{query}"


def _grpc_target(url: str) -> tuple[str, str]:
    """Return the target of a connection, and the service. Raises FetchError for another URL."""
    parts = urlsplit(url)
    try:
        is_whole = bool(parts.hostname and parts.port)
    except ValueError as e:
        raise FetchError(f"{url!r} is no URL: {e}") from e
    where = unquote(parts.netloc)
    if parts.scheme == "grpc+unix":
        is_whole, where = where.startswith("/"), f"unix:{where}"
    if not is_whole or "@" in where or parts.query or parts.fragment:
        raise FetchError(
            f"{url!r} is no URL of a gRPC service: write grpc://HOST:PORT/SERVICE, "
            "grpcs://HOST:PORT/SERVICE or grpc+unix://%2Fpath%2Fto%2Fsocket/SERVICE"
        )
    if missing := grpc_missing():
        raise FetchError(missing)
    return where, unquote(parts.path.removeprefix("/"))
